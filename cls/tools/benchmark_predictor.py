"""Our side of `benchmark predict`: a process that predicts, computes or decodes on request.

See cls/tools/peers/answering.py for its input and output.
"""

import contextlib
import dataclasses
import functools
import os
from pathlib import Path

import jax
import numpy as np

from cls.inference import loading, stream
from cls.inference.model import Model
from cls.nn import folding
from cls.run import environment
from cls.tools import benchmark_worker, predict
from cls.tools.peers.answering import answer


def serve(name: str, folder: str, batch: str, weights: str = '') -> None:
    """Answers requests for the works 'predict', 'step' and 'decode' until the input ends.

    Args:
      name: the variant.
      folder: has the folders `images` and `few`; results are written to `ours.csv` there.
      batch: images of a batch.
      weights: a file with the weights; '': new ones.
    """
    environment.start()
    model = loading.load(weights, variant=name) if weights else loading.create(name)
    place = Path(folder)
    files = [str(file) for file in sorted((place / 'images').iterdir())]
    model.batch = int(batch)
    steps = Steps(model, files[: model.batch])
    works = {
        'predict': Predictions(model, place / 'images', place / 'ours.csv').passes,
        'step': steps.run,
        'decode': functools.partial(decode, model, files),
    }
    Predictions(model, place / 'few', place / 'ours.csv').passes(1)
    params = sum(x.size for x in jax.tree.leaves(model.variables['params']))
    prepared = dataclasses.asdict(model.preprocess)
    for key in ('mean', 'std'):  # of pixels in 0..1, as timm has it
        prepared[key] = [x / 255 for x in np.resize(prepared[key], 3).tolist()]
    about = {'params': params, 'preparation': prepared, 'classes': model.classes}
    about['images'] = len(steps.images)  # of a step: a batch on each device
    answer(works, versions=benchmark_worker.versions(), **about)


class Predictions:
    """`cls predict` with a loaded model."""

    def __init__(self, model: Model, folder: Path, output: Path) -> None:
        """Reads the flags."""
        flags = ['--from', 'loaded', str(folder), '--csv', '--output', str(output)]
        self.model, self.output = model, output
        self.args = predict.parser().parse_args(flags)

    def passes(self, count: int) -> None:
        """Predicts all images a number of times."""
        for _ in range(count):
            self.output.unlink(missing_ok=True)
            form = predict.check(self.args)
            with open(os.devnull, 'w') as nothing, contextlib.redirect_stderr(nothing):
                predict.write(self.model, self.args, form)


class Steps:
    """The compiled inference step: normalization, network, logits; a batch on the device."""

    def __init__(self, model: Model, files: list[str]) -> None:
        """Puts the batch on the device, and compiles the step."""
        forward = folding.folded(functools.partial(model.module.apply, train=False))
        step = lambda variables, x: forward(variables, model.preprocess.normalize(x))  # noqa: E731
        self.step, self.variables = jax.jit(step), model.variables
        pixels = model.preprocess.pixels(files)
        count = model.batch * model.mesh.size
        self.images = model.put(np.resize(pixels, (count, *pixels.shape[1:])))
        self.run(1)

    def run(self, count: int) -> None:
        """Takes a number of steps."""
        for _ in range(count):
            jax.block_until_ready(self.step(self.variables, self.images))


def decode(model: Model, files: list[str], count: int) -> None:
    """Decodes, resizes and crops all files a number of times, on all cores."""
    for _ in range(count):
        with stream.decoders() as pool:
            for _ in pool.map(model.preprocess.crop, files):
                pass

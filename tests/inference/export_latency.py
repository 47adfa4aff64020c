"""Times of exported files and of the jitted step, of one image and by turns in one process.

    python tests/inference/export_latency.py [NAME ...]

Without names it takes the first variant of each system, the smallest first, with new weights and
images of its own size. It stores each in tests/export_latencies.json, and leaves out those that are
there. The machine should have no other load, and the load of the last minute before each is stored.
`export_table.py` writes the page from the results.
"""

import functools
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from jax import export

import cls
from cls import models
from cls.inference.export import onnx_file, stablehlo
from cls.nn import folding
from cls.tools.export import source_of

RESULTS = Path(__file__).parents[1] / 'export_latencies.json'
ROUNDS, SECONDS = 40, 10.0  # of all turns; the first of both ends them
LEAST = 7  # rounds
PAUSE = 0.02  # seconds: after a run, onnxruntime's threads spin for a while


def variants():
    """Returns the first variant of each system, the fewest multiply-adds first."""
    first = {}
    for name in models.names():
        first.setdefault(models.variant(name).system.name, name)
    return sorted(first.values(), key=lambda name: models.variant(name).macs)


def calls(model, folder):
    """Returns 'step', 'stablehlo' and 'onnx' -> a function that computes the same image."""
    source = source_of(model, pixels=False)
    images = source.samples(1)
    step = jax.jit(folding.folded(functools.partial(model.module.apply, train=False)))
    made = stablehlo.program(source, any_size=False)
    file, *weights = stablehlo.write(made, folder / 'model.stablehlo')
    loaded = jax.jit(export.deserialize(bytearray(file.read_bytes())).call)
    constants = [jax.device_put(dict(np.load(each))) for each in weights]
    session = onnx_file.session(onnx_file.write(source, folder / 'model.onnx')[0])
    return {
        'step': lambda: np.asarray(step(model.variables, images)),
        'stablehlo': lambda: np.asarray(loaded(*constants, images)),
        'onnx': lambda: onnx_file.outputs(session, images),
    }


def measured(functions):
    """Returns the milliseconds of the step, and the ratios of the files' times to the step's.

    In each round each function has a turn: a call that is not timed, and one that is. The time of a
    function is the least of all rounds: other load only adds to it.
    """
    for function in functions.values():
        function()
    rounds, began = [], time.perf_counter()
    while len(rounds) < LEAST or (len(rounds) < ROUNDS and time.perf_counter() - began < SECONDS):
        names = list(functions)
        start = len(rounds) % len(names)
        seconds = {}
        for name in names[start:] + names[:start]:
            time.sleep(PAUSE)
            functions[name]()
            begin = time.perf_counter()
            functions[name]()
            seconds[name] = time.perf_counter() - begin
        rounds.append(seconds)
    least = {name: min(each[name] for each in rounds) for name in functions}
    result = {name: seconds / least['step'] for name, seconds in least.items()}
    result['step'] = 1000 * least['step']
    return {name: float(f'{value:.3g}') for name, value in result.items()}


def stored():
    """Returns name -> result."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def main(names):
    """Measures variants; returns nothing."""
    for name in names or variants():
        if not names and name in stored():
            continue
        load = round(os.getloadavg()[0], 1)
        with tempfile.TemporaryDirectory() as folder:
            model = cls.create(name)
            result = measured(calls(model, Path(folder)))
        result |= {'size': model.preprocess.size, 'cores': os.cpu_count(), 'load': load}
        print(name, result, flush=True)
        text = json.dumps({**stored(), name: result}, indent=1, sort_keys=True)
        RESULTS.write_text(text + '\n')
        del model
        jax.clear_caches()
        gc.collect()


if __name__ == '__main__':
    main(sys.argv[1:])

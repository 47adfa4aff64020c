"""Measures how time and memory grow with the work.

  cls benchmark growth                     all cases, a few minutes
  cls benchmark growth classes images      some of them
  cls benchmark growth classes --base 200  classes 200, 2,000 and 20,000

Each case is measured at 1, 10 and 100 times its base, in a new process each. Printed are the
seconds, the growth of the peak memory, and the exponents of both between the last two sizes: 1 is
proportional to the work, 2 is quadratic. Fixed costs make exponents small.
"""

import argparse
import dataclasses
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cls import evaluate, models, train
from cls.cli import Parser
from cls.data import datasets, table_files
from cls.data.spec import DataSpec
from cls.distributed.rendezvous import rendezvous
from cls.errors import UserError
from cls.recipes import common  # pyright: ignore[reportAttributeAccessIssue]
from cls.run import environment
from cls.run.telemetry import Metrics, write_json
from cls.search.history import History
from cls.search.loop import search, submit_inline
from cls.search.searchers.evolution import Evolution
from cls.search.spaces.tabular import NasBench201
from cls.tools import benchmark_machine, benchmark_turns
from cls.tools.peers.answering import answer

FACTORS = (1, 10, 100)
SERVE = 'import sys; from cls.tools.benchmark_growth import serve; serve(*sys.argv[1:])'
SHORT = 0.5  # seconds; a shorter work is repeated
LEAST = 2**20  # bytes; smaller growth of memory has no exponent

Work = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A work of any size.

    Attributes:
      about: one line about it.
      base: its smallest size.
      prepare: (size, empty folder) -> the work, which can be repeated.
      factors: sizes divided by the base.
    """

    about: str
    base: int
    prepare: Callable[[int, Path], Work]
    factors: tuple[int, ...] = FACTORS


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    about = '; '.join(f'{name}: {case.about}' for name, case in CASES.items())
    flags.add_argument('cases', nargs='*', metavar='CASE', help=f'default: all. {about}')
    flags.add_argument('--base', type=int, default=0, help='the smallest size of the cases')
    flags.add_argument('--json', help='file for the results')


def run_task(args: argparse.Namespace) -> int:
    """Measures, prints and writes the results; returns the exit code."""
    for name in args.cases:
        if name not in CASES:
            raise UserError(f'{name!r}: expected {", ".join(CASES)}.')
    if args.base < 0:
        raise UserError(f'--base is {args.base}: expected 1 or more.')
    result = benchmark_machine.record(len(os.sched_getaffinity(0)))
    rows = result['rows'] = {}
    for name in args.cases or CASES:
        rows[name] = measure(name, args.base or CASES[name].base)
        print(line(name, rows[name]), flush=True)
    if args.json:
        write_json(Path(args.json), result)
    return 0


def measure(name: str, base: int) -> list[dict[str, Any]]:
    """Returns size, seconds and bytes of a case at each of its sizes."""
    rows = []
    for factor in CASES[name].factors:
        size = factor * base
        with (
            tempfile.TemporaryDirectory() as folder,
            benchmark_turns.process([sys.executable, '-c', SERVE, name, str(size), folder]) as side,
        ):
            before = side.resident()
            seconds = side.timed('work', 0, 1)
            grown = max(0, side.peak() - before)
            if seconds < SHORT:
                seconds = min(seconds, *(side.timed('work', 0, 1) for _ in range(2)))
        rows.append({'size': size, 'seconds': round(seconds, 4), 'bytes': grown})
    return rows


def exponent(before: dict[str, Any], after: dict[str, Any], key: str) -> float:
    """Returns the power of the size with which a value grows between two sizes."""
    return math.log(after[key] / before[key]) / math.log(after['size'] / before['size'])


def line(name: str, rows: list[dict[str, Any]]) -> str:
    """Returns the printed lines of a case."""
    lines = [f'{name}: {CASES[name].about}']
    for row in rows:
        mib = row['bytes'] / 2**20
        lines.append(f'  {row["size"]:>9,}  {row["seconds"]:8.3f} s  {mib:8.1f} MiB')
    before, after = rows[-2:]
    time_ = f'{exponent(before, after, "seconds"):.2f}'
    grows = min(before['bytes'], after['bytes']) >= LEAST
    memory = f'{exponent(before, after, "bytes"):.2f}' if grows else '-'
    return '\n'.join([*lines, f'  exponents: time {time_}, memory {memory}'])


def serve(name: str, size: str, folder: str) -> None:
    """Prepares a case and answers requests for its work until the input ends."""
    environment.start()
    with redirect_stdout(sys.stderr):  # stdout has the answers
        work = CASES[name].prepare(int(size), Path(folder))

    def timed(count: int) -> float:
        begin = time.perf_counter()
        with redirect_stdout(sys.stderr):
            for _ in range(count):
                work()
        return time.perf_counter() - begin

    answer({'work': timed})


# ------------------------------------------------------------------------------------------------
# The cases
# ------------------------------------------------------------------------------------------------


def _tree(folder: Path, split: str, classes: int, images: int) -> None:
    """Makes folders of classes with links to one image of 8 pixels, `images` in all."""
    photo = folder / 'photo.jpg'
    if not photo.exists():
        pixels = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
        photo.write_bytes(cv2.imencode('.jpg', pixels)[1].tobytes())
    for number in range(images):
        place = folder / split / f'class {number % classes}'
        if number < classes:
            place.mkdir(parents=True)
        os.link(photo, place / f'{number}.jpg')


def _opened(place: Path, kind: str = 'folder') -> Work:
    spec = DataSpec(f'{kind}:{place}', image_size=8)

    def work() -> None:
        train_images, test = (datasets.load(spec, split) for split in ('train', 'eval'))
        datasets.identity(train_images, test)
        train_images.labels()

    return work


def _images(size: int, folder: Path) -> Work:
    _tree(folder, 'train', 10, size)
    _tree(folder, 'val', 10, 10)
    return _opened(folder)


def _classes(size: int, folder: Path) -> Work:
    _tree(folder, 'train', size, 2 * size)
    _tree(folder, 'val', size, size)
    return _opened(folder)


def _rows(size: int, folder: Path) -> Work:
    """Returns the opening of a CSV file of images in 1,000 classes, a tenth to evaluate on."""
    _tree(folder, 'train', 1, 1)
    # Each path is another way to the same image, of the usual length of a path.
    ways = (''.join('.//' if i >> bit & 1 else './' for bit in range(21)) for i in range(size))
    with (folder / 'list.csv').open('w') as file:
        file.write('image,label,split\n')
        for i, way in enumerate(ways):
            split = 'val' if i % 10 == 3 else 'train'
            file.write(f'{way}photo.jpg,class {i // 10 % 1000},{split}\n')
    opened = _opened(folder / 'list.csv', 'csv')

    def work() -> None:
        table_files.read.cache_clear()
        opened()

    return work


def _small(folder: Path) -> ConfigDict:
    """Returns a config that trains a ResNet-8 on images of 8 pixels for a step."""
    config = common.base()
    config.model.name, config.model.stage_sizes = 'resnet20_cifar', (1, 1, 1)
    config.data.name, config.data.image_size = f'folder:{folder}', 8
    config.batch, config.duration = 40, '1 steps'
    config.schedule.warmup = '0 steps'
    return config


def _evaluated(size: int, folder: Path) -> Work:
    (folder / 'data').mkdir()
    _tree(folder / 'data', 'train', 1000, 1000)
    _tree(folder / 'data', 'val', 10, 40)
    train.job(_small(folder / 'data'), folder / 'run')
    os.rename(folder / 'data' / 'val', folder / 'few')
    _tree(folder / 'data', 'val', 10, size)

    def work() -> None:
        with tempfile.TemporaryDirectory() as output:
            evaluate.job(_small(folder / 'data'), folder / 'run', Path(output))

    return work


def _logged(size: int, folder: Path) -> Work:
    values = {f'train/{name}': 0.5 for name in ('loss', 'top1', 'grad_norm', 'param_norm')}

    def work() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as inner:
            workdir = Path(inner)
            for first in (0, size):  # a run, and the run that continues it
                metrics = Metrics(workdir, first)
                for step in range(first + 1, first + size + 1 if first == 0 else first + 2):
                    metrics.write(step, values)
                metrics.close()

    return work


def _trials(size: int, folder: Path) -> Work:
    def accuracy(trial: Any) -> dict[str, float]:
        return {'accuracy': float(np.mean(trial.code))}

    def work() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as inner:
            for evaluations in (size, size + 1):  # a search, and the search that continues it
                search(
                    Evolution(NasBench201(), 0),
                    submit_inline(accuracy),
                    lambda result: result['accuracy'],
                    History(Path(inner) / 'history.jsonl'),
                    evaluations=evaluations,
                )

    return work


def _processes(size: int, folder: Path) -> Work:
    del folder

    def work() -> None:
        port = benchmark_machine.free_port()
        stacks = threading.stack_size(2**19)
        with ThreadPoolExecutor(size) as threads:
            meet = [
                threads.submit(rendezvous, ('127.0.0.1', port), index, size, 300, 'flags', 'token')
                for index in range(size)
            ]
            for connections in [future.result() for future in meet]:
                connections.end()
        threading.stack_size(stacks)

    return work


def _compiled(size: int, folder: Path) -> Work:
    del folder
    jax.config.update('jax_enable_compilation_cache', False)
    model: Any = models.create('resnet20_cifar', stage_sizes=(size, size, size))
    images = jnp.zeros((2, 8, 8, 3))
    variables: Any = models.abstract_variables(model, 8, 3)

    def loss(params: Any, batch_stats: Any) -> Any:
        every = {'params': params, 'batch_stats': batch_stats}
        return model.apply(every, images, train=True, mutable=['batch_stats'])[0].sum()

    def work() -> None:
        jax.clear_caches()
        gradient = jax.jit(jax.grad(loss))
        gradient.lower(variables['params'], variables['batch_stats']).compile()

    return work


CASES = {
    'images': Case('open a folder of images', 200, _images),
    'classes': Case('open a folder of classes with two images each', 50, _classes),
    'rows': Case('open a CSV file of images', 20_000, _rows),
    'evaluated': Case('evaluate images of 1,000 classes', 100, _evaluated),
    'steps': Case('log steps, and continue', 50, _logged),
    'trials': Case('search by evolution in a table, and continue', 20, _trials),
    'processes': Case('processes meet (threads of one)', 4, _processes),
    'depth': Case('compile residual blocks of each stage', 1, _compiled, (1, 3, 9)),
}

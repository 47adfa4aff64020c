"""Measures the speed of input pipelines, side by side with those of other libraries.

  cls benchmark input FOLDER|digits|cifar-like

FOLDER contains images, at any depth. The work of training is decoding, Inception's random crop
resized to 224 pixels, and flips, on all cores; that of evaluation is decoding, the shorter side
resized to 256 pixels, and the crop of 224 at the center. The pipelines of the trainer are timed,
and for comparison tf.data (`--tensorflow PYTHON`) and torchvision's transforms in a DataLoader
(`--torch PYTHON`), each in an interpreter that has these packages. TensorFlow's crops are smaller
than torchvision's and its filter is not antialiased, so each is compared to ours with the same crop
and filter. The pipelines take turns; those of other libraries are stopped while they wait, ours
stops when its buffers are full. Each processes some batches before its clock starts, at least as
many as its buffers hold, so neither start-up nor batches that were prepared during another
pipeline's turn count.

digits and cifar-like (random images of CIFAR's size) are in memory. For them, the fraction of time
that the loop waits for data is measured, with steps of 20 ms.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import numpy as np

from cls.cli import Parser
from cls.data import folders, iteration, pipeline
from cls.data.file_list import FileList
from cls.data.spec import DataSpec
from cls.errors import UserError
from cls.feed import feed
from cls.recipes import common  # pyright: ignore[reportAttributeAccessIssue]
from cls.run.goodput import TimeLedger
from cls.search import supernets  # noqa: F401  registers networks and trainings
from cls.setup import set_up
from cls.tools import benchmark_machine, benchmark_record
from cls.tools import benchmark_turns as turns
from cls.train import train_batches

BATCH, SIZE, SHORTER = 32, 224, 256
SKIP, COUNT = 8, 24  # at least SKIP batches are not timed, the next COUNT are
STEP = 0.02  # seconds
IN_MEMORY = {'digits': 64, 'cifar-like': 128}  # name -> batch
LIKE = {  # fields of config.data for the same work as a peer
    'tensorflow': {'train_crop': 'distorted_box', 'interpolation': 'tf_bilinear'},
    'torch': {'train_crop': 'random_resized', 'interpolation': 'bilinear'},
}
PROCESSES = True  # time ours with worker processes too, not only with threads
WORKS = 'training', 'evaluation'

Timed = Callable[[int, int], float]  # (batches to skip, batches) -> seconds


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    flags.add_argument('input', help='FOLDER, digits or cifar-like')
    flags.add_argument('--tensorflow', metavar='PYTHON', help='a Python with TensorFlow')
    flags.add_argument('--torch', metavar='PYTHON', help='a Python with torchvision')
    flags.add_argument('--rounds', type=int, default=5, help='default: 5')
    flags.add_argument('--json', help='file for the results')


def run_task(args: argparse.Namespace) -> int:
    """Prints and writes the measurements; returns the exit code.

    Raises UserError for a folder without images and for a peer that does not start.
    """
    if args.rounds < 1:
        raise UserError(f'--rounds is {args.rounds}: expected 1 or more.')
    if args.input in IN_MEMORY:
        result = {'waiting': _waiting(args.input, args.rounds)}
        print(f'{args.input}: the loop waits {100 * result["waiting"]:.2f} % of its time for data')
    else:
        result = _images_per_second(args)
    about = benchmark_machine.record(len(os.sched_getaffinity(0)))
    benchmark_record.save(about | {'rows': result}, args)
    return 0


def _images_per_second(args: argparse.Namespace) -> dict[str, float]:
    folder = Path(args.input).expanduser()
    files = sorted(str(path) for path in folder.rglob('*') if path.is_file())
    if not files:
        raise UserError(f'{args.input}: expected a folder of images, digits or cifar-like.')
    pythons = {'tensorflow': args.tensorflow, 'torch': args.torch}
    pythons = {name: python for name, python in pythons.items() if python}
    cores = len(os.sched_getaffinity(0))
    skip = max(SKIP, iteration.HELD * cores)
    with ExitStack() as stack:
        pipelines: dict[str, Timed] = {}
        for name in pythons or {'torch': ''}:
            data = functools.partial(
                DataSpec, f'folder:{folder}', image_size=SIZE, eval_resize=SHORTER, **LIKE[name]
            )
            ours = _training(folder, files, data(workers=0))
            pipelines[f'training like {name}'] = stack.enter_context(ours)
            if PROCESSES:
                ours = _training(folder, files, data(workers=cores))
                pipelines[f'training like {name}, processes'] = stack.enter_context(ours)
            ours = _evaluation(folder, files, data(), args.rounds * (skip + COUNT))
            pipelines[f'evaluation like {name}'] = stack.enter_context(ours)
        for name, python in pythons.items():
            script = turns.PEERS / f'input_with_{name}.py'
            command = [python, *map(str, (script, folder, BATCH, SIZE, SHORTER, cores))]
            peer = stack.enter_context(turns.process(command))
            for work in WORKS:
                pipelines[f'{work}, {name}'] = functools.partial(peer.timed, work)
        rates = {name: [] for name in pipelines}
        for _ in range(args.rounds):
            for name, timed in pipelines.items():
                rates[name].append(BATCH * COUNT / timed(skip, COUNT))
    result = {name: statistics.median(samples) for name, samples in rates.items()}
    for name, samples in rates.items():
        print(f'{name}: {result[name]:,.0f} images/s ({min(samples):,.0f} to {max(samples):,.0f})')
    for work in WORKS if pythons else ():
        ratios = {}
        for name in pythons:
            pairs = zip(rates[f'{work} like {name}'], rates[f'{work}, {name}'], strict=True)
            ratios[name] = statistics.median(ours / other for ours, other in pairs)
            print(f'{work} like {name} / {name}: {ratios[name]:.2f}')
        best = max(ratios, key=lambda name: result[f'{work}, {name}'])
        result[f'{work}, ratio to the best peer'] = ratios[best]
    return result


def _source(folder: Path, files: list[str]) -> folders.Folder:
    names = FileList(folder, [('', (os.path.relpath(file, folder) for file in files))])
    return folders.Folder(folder, names, np.zeros(len(files), np.int32), ('images',))


@contextmanager
def _evaluation(folder: Path, files: list[str], data: DataSpec, count: int) -> Iterator[Timed]:
    epochs = -(-BATCH * (1 + count) // len(files))
    source = _source(folder, files * epochs)
    batches = iter(pipeline.eval_batches(source, data, batch=BATCH, num_classes=1))

    def timed(skip: int, count: int) -> float:
        for _ in range(skip):
            next(batches)
        begin = time.perf_counter()
        for _ in range(count):
            next(batches)
        return time.perf_counter() - begin

    next(batches)
    yield timed


@contextmanager
def _training(folder: Path, files: list[str], data: DataSpec) -> Iterator[Timed]:
    source = _source(folder, files)
    batches = pipeline.train_batches(source, data, batch=BATCH, seed=0, num_classes=1)
    flips = np.random.default_rng(0)

    def timed(skip: int, count: int) -> float:
        for _ in range(skip):
            next(batches)
        begin = time.perf_counter()
        for _ in range(count):
            images = next(batches)['image']
            for row in np.flatnonzero(flips.random(BATCH) < 0.5):  # the train step does this
                images[row] = cv2.flip(images[row], 1)
        return time.perf_counter() - begin

    next(batches)
    yield timed
    batches.close()


def _waiting(name: str, rounds: int) -> float:
    """Returns the share of its time that the loop waits for data, with steps of 20 ms."""
    config = common.base()
    config.model.name, config.batch = 'resnet20_cifar', IN_MEMORY[name]
    if name == 'digits':
        common.use_digits(config)
    else:
        common.use_cifar(config, 'cifar10')
        config.data.name = 'synthetic'
    setup = set_up(config)
    iterator = train_batches(setup)
    batches = feed(iterator, setup)
    for _ in range(50):
        batches.take(1)
    ledger = TimeLedger()
    begin = time.perf_counter()
    for _ in range(100 * rounds):
        with ledger.spend('data'):
            batches.take(1)
        with ledger.spend('step'):
            time.sleep(STEP)
    seconds = time.perf_counter() - begin
    batches.close()
    iterator.close()
    return ledger.seconds['data'] / seconds

"""Measures the speed of input pipelines, side by side with those of other libraries.

python -m cls.tools.benchmark --input FOLDER|digits|cifar-like

FOLDER contains images, at any depth. The work is decoding, Inception's random crop resized to 224
pixels, and flips, on all cores. The pipeline of the trainer is timed, and for comparison tf.data
(`--tensorflow PYTHON`) and torchvision's transforms in a DataLoader (`--torch PYTHON`), each in an
interpreter that has these packages. TensorFlow's crops are smaller than torchvision's and its
filter is not antialiased, so each is compared to ours with the same crop and filter. The pipelines
take turns, and a waiting pipeline is stopped. Each processes some batches before its clock starts,
so neither start-up nor batches that were prepared during another pipeline's turn count.

digits and cifar-like (random images of CIFAR's size) are in memory. For them, the fraction of time
that the loop waits for data is measured, with steps of 20 ms.
"""

import argparse
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cls.data import folders, pipeline
from cls.data.spec import DataSpec
from cls.errors import UserError
from cls.feed import feed
from cls.recipes import common  # pyright: ignore[reportAttributeAccessIssue]
from cls.run.goodput import TimeLedger
from cls.run.telemetry import write_json
from cls.search import supernets  # noqa: F401  registers networks and trainings
from cls.setup import set_up
from cls.train import train_batches

BATCH, SIZE, SKIP, COUNT = 32, 224, 8, 24  # SKIP batches are not timed, the next COUNT are
STEP = 0.02  # seconds
IN_MEMORY = {'digits': 64, 'cifar-like': 128}  # name -> batch
LIKE = {  # fields of config.data for the same work as a peer
    'tensorflow': {'train_crop': 'distorted_box', 'interpolation': 'tf_bilinear'},
    'torch': {'train_crop': 'random_resized', 'interpolation': 'bilinear'},
}
PROCESSES = True  # time ours with worker processes too, not only with threads
PEERS = Path(__file__).with_name('peers')

Timed = Callable[[int, int], float]  # (batches to skip, batches) -> seconds


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Measures as `args.input` says; prints the results, writes `args.json`, returns them.

    Raises UserError for a folder without images and for a peer that does not start.
    """
    if args.input in IN_MEMORY:
        result = {'waiting': _waiting(args.input, args.rounds)}
        print(f'{args.input}: the loop waits {100 * result["waiting"]:.2f} % of its time for data')
    else:
        result = _images_per_second(args)
    if args.json:
        write_json(Path(args.json), result)
    return result


def _images_per_second(args: argparse.Namespace) -> dict[str, float]:
    folder = Path(args.input).expanduser()
    files = sorted(str(path) for path in folder.rglob('*') if path.is_file())
    if not files:
        raise UserError(f'--input {args.input}: expected a folder of images, digits or cifar-like.')
    pythons = {'tensorflow': args.tensorflow, 'torch': args.torch}
    pythons = {name: python for name, python in pythons.items() if python}
    with ExitStack() as stack:
        turns = {}
        for name in pythons or {'torch': ''}:
            turns[f'ours like {name}'] = _ours(folder, files, LIKE[name] | {'workers': 0})
            if PROCESSES:
                workers = {'workers': os.cpu_count()}
                turns[f'ours like {name}, processes'] = _ours(folder, files, LIKE[name] | workers)
        for name, python in pythons.items():
            script = PEERS / f'with_{name}.py'
            turns[name] = _peer([python, *map(str, (script, folder, BATCH, SIZE, os.cpu_count()))])
        turns = {name: stack.enter_context(timed) for name, timed in turns.items()}
        rates = {name: [] for name in turns}
        for _ in range(args.rounds):
            for name, timed in turns.items():
                rates[name].append(BATCH * COUNT / timed(SKIP, COUNT))
    result = {name: statistics.median(samples) for name, samples in rates.items()}
    for name, samples in rates.items():
        print(f'{name}: {result[name]:,.0f} images/s ({min(samples):,.0f} to {max(samples):,.0f})')
    ratios = {}
    for name in pythons:
        pairs = zip(rates[f'ours like {name}'], rates[name], strict=True)
        ratios[name] = statistics.median(ours / other for ours, other in pairs)
        print(f'ours like {name} / {name}: {ratios[name]:.2f}')
    if ratios:
        result['ratio_to_best_peer'] = ratios[max(ratios, key=lambda name: result[name])]
    return result


@contextmanager
def _ours(folder: Path, files: list[str], fields: dict[str, Any]) -> Iterator[Timed]:
    source = folders.Folder(folder, files, np.zeros(len(files), np.int32), ('images',))
    data = DataSpec(f'folder:{folder}', image_size=SIZE, **fields)
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


@contextmanager
def _peer(command: list[str]) -> Iterator[Timed]:
    with tempfile.TemporaryFile('w+') as said:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,  # so that signals reach its workers too
            )
        except OSError as error:
            raise UserError(f'{command[0]} cannot be run: {error.strerror}.') from error
        try:
            if process.stdout.readline() != 'ready\n':  # pyright: ignore[reportOptionalMemberAccess]
                said.seek(0)
                last = said.read().strip().splitlines()[-1:]
                raise UserError(f'{" ".join(command[:2])} ended with: {"".join(last)}')

            def timed(skip: int, count: int) -> float:
                os.killpg(process.pid, signal.SIGCONT)
                print(skip, count, file=process.stdin, flush=True)
                seconds = float(process.stdout.readline())  # pyright: ignore[reportOptionalMemberAccess]
                os.killpg(process.pid, signal.SIGSTOP)
                return seconds

            os.killpg(process.pid, signal.SIGSTOP)
            yield timed
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


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

"""Compares `cls predict` with its parts, and with timm's inference.

  cls benchmark predict PHOTOS                        ResNet-50 and MobileNetV2 at 224 pixels
  cls benchmark predict PHOTOS --torch PYTHON         with timm too
  cls benchmark predict PHOTOS resnet18 --images 500  another network, fewer images

PHOTOS is a folder of images, which are repeated to --images. Our side is `cls predict` with --csv
in a process that has loaded the network: files to a table. Its parts are the compiled inference
step on a batch in memory, and the decoding of the same files, on all cores. PYTHON is an
interpreter with PyTorch, torchvision and timm: timm's loader and network with the same weights,
preparation and batches, in the faster of its memory formats and numbers of workers.

Printed are images per second of each, and the ratios of `cls predict` to the step, to step and
decoding one after the other, and to timm: medians over the rounds, above 1 is faster. The processes
take turns.
"""

import argparse
import contextlib
import csv
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cls import huge_pages, models
from cls.cli import Parser
from cls.data.decode import SUFFIXES
from cls.errors import UserError
from cls.tools import benchmark_machine, benchmark_record
from cls.tools.benchmark_turns import (
    PEERS,
    Process,
    Turn,
    compared,
    disturbance,
    in_turns,
    process,
    summary,
)

NETWORKS = ('resnet50', 'mobilenetv2_100')
REFERENCES = {name: f'timm:{name}' for name in NETWORKS}  # not torchvision's
IMAGES, BATCH = 2000, 32
FEW = 2  # batches of the images that choose the peer's fastest way
WAYS = tuple(itertools.product(('channels_last', 'contiguous'), (0, 2)))
PEER = 'predict_with_timm.py'
SERVE = 'import sys; from cls.tools.benchmark_predictor import serve; serve(*sys.argv[1:])'
RATIOS = {  # key of a row -> the printed name
    'of_step': 'the step',
    'of_parts': 'step and decoding',
    'of_timm': 'timm',
}


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    flags.add_argument('photos', metavar='PHOTOS', help='a folder of images')
    names = ' '.join(NETWORKS)
    flags.add_argument('networks', nargs='*', metavar='NAME', help=f'default: {names}')
    flags.add_argument('--torch', default='', metavar='PYTHON', help='a Python with timm')
    flags.add_argument('--images', type=int, default=IMAGES, help=f'default: {IMAGES}')
    flags.add_argument('--batch', type=int, default=BATCH, help=f'default: {BATCH}')
    flags.add_argument('--rounds', type=int, default=3, help='default: 3')
    flags.add_argument('--threads', type=int, default=0, help='cores of each side; default: all')
    benchmark_record.add_flags(flags)


def run_task(args: argparse.Namespace) -> int:
    """Measures, prints and writes the results; returns the exit code."""
    for flag in ('images', 'batch', 'rounds'):
        if getattr(args, flag) < 1:
            raise UserError(f'--{flag} is {getattr(args, flag)}: expected 1 or more.')
    photos, names = photos_of(Path(args.photos)), args.networks or list(NETWORKS)
    references = {name: REFERENCES.get(name, models.variant(name).reference) for name in names}
    if args.torch and None in references.values():
        lacking = next(name for name in names if not references[name])
        raise UserError(f'{lacking} has no reference in PyTorch: leave --torch out.')
    if args.check:
        benchmark_record.recorded('predict', names)
    with benchmark_machine.cores(args.threads) as threads, tempfile.TemporaryDirectory() as folder:
        result = benchmark_machine.record(threads)
        place = Path(folder)
        rows = result['rows'] = {}
        repeat(photos, args.images, place / 'images')
        repeat(photos, min(args.images, FEW * args.batch), place / 'few')
        for name in names:
            rows[name] = row = measure(name, references[name] or '', args, threads, place)
            result['versions'] |= row.pop('versions')
            print(line(name, row), flush=True)
            benchmark_record.save(result, args)
    result['summary'] = {
        key: summary({name: row[key]['ratio'] for name, row in rows.items()})
        for key in RATIOS
        if key in next(iter(rows.values()))
    }
    return benchmark_record.finish('predict', result, args)


def photos_of(folder: Path) -> list[Path]:
    """Returns the images of a folder, at any depth. Raises UserError if there are none."""
    files = sorted(folder.expanduser().rglob('*'))
    photos = [file.resolve() for file in files if file.suffix.lower() in SUFFIXES]
    if not photos:
        raise UserError(f'{folder}: expected a folder of images.')
    return photos


def repeat(photos: Sequence[Path], count: int, folder: Path) -> None:
    """Makes a folder with links to images, repeated to a number; formats are mixed."""
    folder.mkdir()
    step = next(n for n in range(int(len(photos) ** 0.5), 0, -1) if len(photos) % n == 0)
    mixed = [photo for first in range(step) for photo in photos[first::step]]
    for number, photo in enumerate(itertools.islice(itertools.cycle(mixed), count)):
        (folder / f'{number:06}{photo.suffix.lower()}').symlink_to(photo)


def measure(
    name: str, reference: str, args: argparse.Namespace, threads: int, folder: Path
) -> dict[str, Any]:
    """Returns the measurements of a network, for JSON. Raises UserError for a failing peer."""
    weights = folder / f'{name}.pth' if args.torch else None
    if weights:
        _save(args.torch, reference, weights)
    with contextlib.ExitStack() as stack:
        sizes = (str(folder), str(args.batch), str(weights or ''))
        ours = stack.enter_context(
            process([sys.executable, '-c', SERVE, name, *sizes], **huge_pages.setting())
        )
        whole = {'count': 1, 'skip': 0, 'units': args.images}
        steps = max(args.images // args.batch // 4, 1)
        turns = {
            'ours': Turn(ours, 'predict', **whole),
            'step': Turn(ours, 'step', steps, 1, steps * ours.about['images']),
            'decoding': Turn(ours, 'decode', **whole),
        }
        row = {'batch': args.batch, 'pixels': ours.about['preparation']['size']}
        row |= {'images': args.images, 'start': {'ours': ours.start}}
        versions = ours.about['versions']
        if weights:
            way, timm = _fastest(stack, reference, args, threads, weights, ours, folder)
            turns['timm'] = Turn(timm, 'predict', **whole)
            row |= {'format': way[0], 'workers': way[1]}
            row['start']['timm'] = timm.start
            versions |= timm.about['versions']
        rates, others = in_turns(turns, args.rounds)
        if weights:
            row['same'] = same(folder / 'ours.csv', folder / 'timm.csv', ours.about['classes'])
    return row | ratios(rates) | {'others': others, 'versions': versions}


def _save(python: str, reference: str, file: Path) -> None:
    """Saves the reference of a network with random weights. Raises UserError if it cannot."""
    command = [python, str(PEERS / PEER), reference, str(file), 'save']
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f'{python} cannot be run: {error.strerror}.') from error
    if done.returncode:
        last = ''.join(done.stderr.strip().splitlines()[-1:])
        raise UserError(f'{python} could not save {reference}: {last}')


def _fastest(
    stack: contextlib.ExitStack,
    reference: str,
    args: argparse.Namespace,
    threads: int,
    weights: Path,
    ours: Process,
    folder: Path,
) -> tuple[tuple[str, int], Process]:
    """Returns the memory format and the number of workers in which timm is fastest, running."""
    prepared = json.dumps(ours.about['preparation'])
    places = [str(folder / name) for name in ('images', 'few', 'timm.csv')]
    seconds: dict[tuple[str, int], float] = {}

    def command(way: tuple[str, int]) -> list[str]:
        sizes = map(str, (args.batch, threads, *way))
        script = str(PEERS / PEER)
        return [args.torch, script, reference, str(weights), *places, *sizes, prepared]

    for way in WAYS:
        with process(command(way)) as peer:
            seconds[way] = min(peer.timed('few', 0, 1) for _ in range(2))
            counts = ours.about['params'], peer.about['params']
            if counts[0] != counts[1]:
                raise UserError(
                    f'{reference} has {counts[1]:,} parameters and our network {counts[0]:,}: '
                    'expected the same network.'
                )
    best = min(seconds, key=lambda way: seconds[way])
    return best, stack.enter_context(process(command(best)))


def same(ours: Path, timm: Path, classes: Sequence[str]) -> float:
    """Returns the part of the images with the same most probable class in both tables.

    Args:
      ours: has labels.
      timm: has indices.
      classes: the labels; () if they are the indices.
    """
    with open(ours, newline='') as file:
        mine = {Path(row['image']).name: row['class1'] for row in csv.DictReader(file)}
    with open(timm, newline='') as file:
        best = {row[0]: int(row[1]) for row in csv.reader(file)}
    theirs = {name: classes[index] if classes else str(index) for name, index in best.items()}
    if mine.keys() != theirs.keys():
        raise UserError('timm predicted other images: expected all files of the folder.')
    return round(statistics.mean(mine[name] == theirs[name] for name in mine), 4)


def ratios(rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Returns the medians of rates and the ratios of our side to each of the others, for JSON.

    Args:
      rates: images per second in each round, of 'ours', 'step', 'decoding', and perhaps 'timm'.
    """
    parts = [1 / (1 / a + 1 / b) for a, b in zip(rates['step'], rates['decoding'], strict=True)]
    row = {
        'decoding': round(statistics.median(rates['decoding']), 3),
        'of_step': compared(rates['ours'], rates['step']),
        'of_parts': compared(rates['ours'], parts),
    }
    if 'timm' in rates:
        row['of_timm'] = compared(rates['ours'], rates['timm'])
    return row


def line(name: str, row: Mapping[str, Any]) -> str:
    """Returns the printed lines of a network."""
    step = row['of_step']
    lines = [
        f'{name}, {row["images"]:,} images of {row["pixels"]} pixels in batches of {row["batch"]}: '
        f'{step["ours"]:,.1f} images/s{disturbance(row["others"])}',
        f'  the step {step["peer"]:,.1f}, decoding {row["decoding"]:,.1f} images/s',
    ]
    if 'of_timm' in row:
        lines.append(
            f'  timm ({row["format"]}, {row["workers"]} workers) {row["of_timm"]["peer"]:,.1f} '
            f'images/s, the same class for {100 * row["same"]:.2f} % of the images'
        )
    shown = [f'{text} {row[key]["ratio"]:.3f}' for key, text in RATIOS.items() if key in row]
    lines.append(f'  cls predict / {", / ".join(shown)}')
    starts = [f'{name} {seconds:.1f} s' for name, seconds in row['start'].items()]
    return '\n'.join([*lines, f'  start, with the network loaded: {", ".join(starts)}'])

"""Measures recognition and import of a checkpoint, and compares them with timm.

  cls benchmark weights --torch PYTHON               ResNet-50 and DenseNet-121 (606 tensors)
  cls benchmark weights densenet201 --torch PYTHON   another variant

PYTHON is an interpreter with PyTorch, timm and the package of the variant's reference. It saves the
reference with random weights. New processes then take, after their imports, one step each: read the
file and recognize its network; import it to a run folder; in PYTHON, `timm.create_model`,
`torch.load` and `load_state_dict`. Printed are seconds, and the peak of the memory above that after
the imports, in sizes of the file; medians of the rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cls import models
from cls.cli import Parser
from cls.errors import UserError
from cls.tools import benchmark_machine, benchmark_record
from cls.tools.benchmark_turns import PEERS, process

DEFAULT = ('resnet50', 'densenet121')
PEER = 'weights_with_torch.py'
SERVE = 'import sys; from cls.tools.benchmark_weights import serve; serve(*sys.argv[1:])'


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    flags.add_argument('networks', nargs='*', metavar='NAME', help=f'default: {" ".join(DEFAULT)}')
    flags.add_argument('--torch', required=True, metavar='PYTHON', help='with PyTorch and timm')
    flags.add_argument('--rounds', type=int, default=3, help='processes of each kind')
    flags.add_argument('--json', help='file for the results')


def run_task(args: argparse.Namespace) -> int:
    """Measures, prints and writes the results; returns the exit code."""
    if args.rounds < 1:
        raise UserError('--rounds: expected 1 or more.')
    names = args.networks or DEFAULT
    references = [models.variant(name).reference for name in names]
    if None in references:
        lacking = names[references.index(None)]
        raise UserError(f'{lacking} has no reference in a package: expected one that has.')
    result = benchmark_machine.record(len(os.sched_getaffinity(0)))
    rows = result['rows'] = {}
    for name, reference in zip(names, references, strict=True):
        rows[name] = measure(name, str(reference), args.torch, args.rounds)
        size = rows[name]['bytes']
        print(f'{name}, {rows[name]["tensors"]} tensors, {size / 2**20:.0f} MiB', flush=True)
        for kind, row in rows[name]['kinds'].items():
            print(f'  {kind}: {row["seconds"]:.2f} s, memory {row["memory"]:.2f} x the file')
        benchmark_record.save(result, args)
    return 0


def measure(name: str, reference: str, python: str, rounds: int) -> dict[str, Any]:
    """Returns the size of a file of a variant's reference, and seconds and memory of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f'{name}.pth'
        peer = [python, str(PEERS / PEER), reference, str(file)]
        made = subprocess.run([*peer, 'save'], capture_output=True, text=True)
        if made.returncode:
            last = ''.join(made.stderr.strip().splitlines()[-1:])
            raise UserError(f'{python} could not save {reference}: {last}')
        ours = [sys.executable, '-c', SERVE, str(file), folder]
        kinds = {
            'recognition': (ours, 'recognize'),
            'import': (ours, 'import'),
            'timm, load_state_dict': (peer, 'load'),
        }
        size, result = file.stat().st_size, {}
        for kind, (command, work) in kinds.items():
            runs = [_once(command, work) for _ in range(rounds)]
            seconds, memory = (statistics.median(values) for values in zip(*runs, strict=True))
            result[kind] = {'seconds': round(seconds, 3), 'memory': round(memory / size, 3)}
        return {'bytes': size, 'tensors': int(made.stdout), 'kinds': result}


def _once(command: list[str], work: str) -> tuple[float, int]:
    """Returns the seconds of a work in a new process, and its memory in bytes."""
    with process(command) as side:
        side.forget_peak()  # that of the imports
        return side.timed(work, 0, 1), side.peak() - side.about['resident']


def serve(file: str, folder: str) -> None:
    """Answers requests to recognize and to import a file."""
    import logging

    from cls import weights
    from cls.tools import import_weights
    from cls.tools.peers.answering import answer, resident

    models.names()  # imports the systems

    def recognize(count: int) -> None:
        for _ in range(count):
            weights.recognize(weights.read(file), {'file': Path(file).name})

    def import_file(count: int) -> None:
        for _ in range(count):
            logging.disable()
            with tempfile.TemporaryDirectory(dir=folder) as runs, open(os.devnull, 'w') as out:
                sys.stdout, before = out, sys.stdout
                try:
                    import_weights.main(['--from', file, '--workdir', f'{runs}/run'])
                finally:
                    sys.stdout = before

    answer({'recognize': recognize, 'import': import_file}, resident=resident())

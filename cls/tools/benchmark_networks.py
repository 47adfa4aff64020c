"""Compares training and inference steps with PyTorch's, in processes that take turns.

  cls benchmark networks --torch PYTHON                     the eleven networks of the table
  cls benchmark networks resnet50 --torch PYTHON --quick    one network, less exactly
  cls benchmark networks resnet50:8x64 --torch PYTHON       batch 8, 64 pixels
  cls benchmark networks --torch PYTHON --gpu               bfloat16, on a GPU

PYTHON is an interpreter with PyTorch and the package of the network's reference: timm, torchvision
or pytorchcv. Both sides take steps on uint8 images in memory: normalization, forward and backward
pass, SGD with momentum, loss and top-1, in float32; and the logits in evaluation mode. PyTorch runs
in the faster of its two memory formats, channels_last and contiguous. Both use the same cores.

For each network it prints images per second of both sides and their ratio, ours / PyTorch (medians
over the rounds, above 1 is faster), the peak of the memory of the training processes, and the
seconds from the start of a process to the end of its first step, with our persistent compilation
cache empty (cold) and filled (warm).

With --gpu only training steps are compared, in bfloat16. PyTorch uses channels_last, autocast and
torch.compile, and the networks of cls/tools/peers/plain_models.py. The part of the device's peak
is printed too, with 6 operations for each multiply-add of the network.
"""

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from cls import huge_pages, models
from cls.cli import Parser
from cls.errors import UserError
from cls.models.registry.complexity import complexity
from cls.tools import benchmark_machine, benchmark_record
from cls.tools.benchmark_turns import (
    PEERS,
    Process,
    compared,
    disturbance,
    process,
    repetitions,
    summary,
    take_turns,
)

NETWORKS = {  # variant -> (images in a step, pixels)
    'resnet50': (16, 160),
    'resnext50_32x4d': (16, 160),
    'densenet121': (16, 160),
    'mobilenetv2_100': (32, 160),
    'mobilenetv3_large_100': (32, 160),
    'efficientnet_b0': (32, 160),
    'shufflenetv2_1.0x': (32, 160),
    'seresnet50': (16, 160),
    'inception_v3': (16, 160),
    'resnet20_cifar': (128, 32),
    'vgg16_bn': (8, 160),
}
GPU_NETWORKS = {'resnet50': (256, 224), 'efficientnet_b0': (256, 224), 'densenet121': (256, 224)}
REFERENCES = {'resnet20_cifar': 'plain:resnet20_cifar'}  # of variants without one
GPU_REFERENCES = REFERENCES | {name: f'plain:{name}' for name in GPU_NETWORKS}
GPU_REFERENCES['nasnet_a_large'] = 'timm:nasnetalarge'
FORMATS = ('channels_last', 'contiguous')
WORKS = {'train': 'training', 'infer': 'inference'}
# Operations per second in bfloat16 without sparsity, of NVIDIA's data sheets, by the name of the
# device: boards of one chip differ.
PEAKS = {
    'NVIDIA H200': 989e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA H100 PCIe': 756e12,
    **dict.fromkeys(('NVIDIA A100-SXM4-40GB', 'NVIDIA A100-SXM4-80GB'), 312e12),
    **dict.fromkeys(('NVIDIA A100-PCIE-40GB', 'NVIDIA A100 80GB PCIe'), 312e12),
    'NVIDIA L40S': 362e12,
    'NVIDIA L4': 121e12,
}
SERVE = 'import sys; from cls.tools.benchmark_worker import serve; serve(*sys.argv[1:])'


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with the size of its steps.

    Attributes:
      name: the variant.
      batch: images in a step.
      pixels: height and width of the images.
      reference: the network of the peer, as 'PACKAGE:NAME'.
    """

    name: str
    batch: int
    pixels: int
    reference: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A kind of measurement.

    Attributes:
      rounds: rounds of each work.
      seconds: of a process in a round.
      starts: whether starts with an empty cache are measured too.
      works: the works to compare.
      formats: memory formats of PyTorch.
      dtype: type of the computation; bfloat16: PyTorch compiles its steps.
    """

    rounds: int = 7
    seconds: float = 1.5
    starts: bool = True
    works: tuple[str, ...] = tuple(WORKS)
    formats: tuple[str, ...] = FORMATS
    dtype: str = 'float32'


GPU = Plan(starts=False, works=('train',), formats=('channels_last',), dtype='bfloat16')
QUICK = {'rounds': 3, 'seconds': 0.7, 'starts': False}


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    flags.add_argument('networks', nargs='*', metavar='NAME[:BATCHxPIXELS]', help='default: all')
    flags.add_argument('--torch', required=True, metavar='PYTHON', help='a Python with PyTorch')
    flags.add_argument('--rounds', type=int, default=0, help=f'default: {Plan.rounds}')
    flags.add_argument('--gpu', action='store_true', help='bfloat16 training steps on a GPU')
    flags.add_argument('--quick', action='store_true', help='few short rounds, no cold starts')
    flags.add_argument('--threads', type=int, default=0, help='cores of each side; default: all')
    benchmark_record.add_flags(flags)


def run_task(args: argparse.Namespace) -> int:
    """Measures, prints and writes the results; returns the exit code."""
    plan = GPU if args.gpu else Plan()
    plan = dataclasses.replace(plan, **QUICK) if args.quick else plan
    plan = dataclasses.replace(plan, rounds=args.rounds or plan.rounds)
    if plan.rounds < 1:
        raise UserError(f'--rounds is {args.rounds}: expected 1 or more.')
    sizes, references = (GPU_NETWORKS, GPU_REFERENCES) if args.gpu else (NETWORKS, REFERENCES)
    cases = [case_of(text, sizes, references) for text in once(args.networks) or sizes]
    record = 'gpu' if args.gpu else 'networks'
    if args.quick and args.write:
        raise UserError('--quick measures less exactly, and no cold starts: not for --write.')
    if args.check:  # before hours of work
        measured = {case.name: f'{case.batch} x {case.pixels}' for case in cases}
        benchmark_record.recorded(record, list(measured), measured)
    with benchmark_machine.cores(args.threads) as threads:
        result = benchmark_machine.record(threads)
        rows = result['rows'] = {}
        for case in cases:
            rows[case.name] = row = measure(case, args.torch, threads, plan)
            result['versions'] |= row.pop('versions')
            print(line(case, row), flush=True)
            result['summary'] = summarize(rows, benchmark_record.RATIOS[record])
            benchmark_record.save(result, args)
    for key, values in result['summary'].items():
        print(
            f'{benchmark_record.TITLES[key]}: geometric mean {values["geometric_mean"]:.2f}, '
            f'from {values["minimum"]:.2f} ({values["of"]})'
        )
    return benchmark_record.finish(record, result, args)


def case_of(text: str, sizes: Mapping[str, Any], references: Mapping[str, str]) -> Case:
    """Returns the case of NAME or NAME:BATCHxPIXELS.

    Args:
      text: the text.
      sizes: the default (batch, pixels) of networks.
      references: the networks of the peer that differ from the variants' own references.

    Raises UserError for another text, and for a network that the peer does not have.
    """
    name = text.partition(':')[0]
    reference = references.get(name, models.variant(name).reference)
    batch, pixels = sizes_of(text, sizes)
    if not reference:
        raise UserError(f'{name} has no reference in PyTorch: choose another network.')
    return Case(name, batch, pixels, reference)


def once(networks: Sequence[str]) -> Sequence[str]:
    """Returns the networks. Raises UserError for one that is named twice: results have its name."""
    names = [text.partition(':')[0] for text in networks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f'{", ".join(twice)}: expected each network once; measure again for more.')
    return networks


def sizes_of(text: str, sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Returns (batch, pixels) of NAME or NAME:BATCHxPIXELS. Raises UserError for another text."""
    name, _, size = text.partition(':')
    try:
        batch, pixels = map(int, size.split('x')) if size else sizes[name]
    except (ValueError, KeyError):
        raise UserError(f'{text!r}: expected {name}:BATCHxPIXELS, as in {name}:16x160.') from None
    return batch, pixels


def measure(case: Case, python: str, threads: int, plan: Plan) -> dict[str, Any]:
    """Returns the measurements of a network, for JSON. Raises UserError for a failing peer."""
    sizes = [case.name, str(case.batch), str(case.pixels)]
    command = [sys.executable, '-c', SERVE, *sizes, plan.dtype, 'main']
    with contextlib.ExitStack() as stack:
        # Memory: both sides are on one GPU. Pages: as for `cls train`.
        variables = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.45'} | huge_pages.setting()
        row: dict[str, Any] = {'batch': case.batch, 'pixels': case.pixels, 'start': {}, 'peak': {}}
        if plan.starts:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            variables['JAX_COMPILATION_CACHE_DIR'] = folder
            with process(command, **variables) as cold:
                row['start']['cold'], row['peak']['cold'] = cold.start, cold.peak()
        ours = stack.enter_context(process(command, **variables))
        if plan.dtype == GPU.dtype and ours.about['device'] == 'cpu':
            raise UserError('--gpu: JAX has no GPU here, see launch/gpu_benchmark.sh.')
        peers = {
            layout: stack.enter_context(process(_peer_command(case, python, threads, layout, plan)))
            for layout in plan.formats
        }
        for work in plan.works:
            layout = _faster(peers, work)
            peer = peers[layout]
            _check_same(ours, peer, case)
            sides = {'ours': (ours, work), 'peer': (peer, work)}
            rates, others = take_turns(sides, case.batch, plan.rounds, plan.seconds)
            row[work] = compared(**rates) | {'others': others, 'format': layout}
            if work == 'train':
                # Without a cache of its own the start is neither cold nor warm.
                kind = 'warm' if plan.starts else 'ours'
                row['start'] |= {kind: ours.start, 'peer': peer.start}
                row['peak'] |= {'ours': ours.peak(), 'peer': peer.peak()}
                row['versions'] = ours.about['versions'] | peer.about['versions']
        row |= _of_peak(case, ours.about['device'], row['train'])
    row['peak']['ratio'] = round(row['peak']['ours'] / row['peak']['peer'], 3)
    row['start'] = {name: round(seconds, 2) for name, seconds in row['start'].items()}
    for name in {'cold', 'warm'} & row['start'].keys():
        row['start'][f'{name}_ratio'] = round(row['start'][name] / row['start']['peer'], 3)
    return row


def _of_peak(case: Case, device: str, rates: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the device, and the parts of its peak that both sides reach if it is known."""
    peak = PEAKS.get(device)
    if peak is None:
        return {'device': device}
    # Forward pass and the gradients of inputs and weights: two operations each.
    operations = 6 * complexity(models.create(case.name), case.pixels).macs
    parts = {side: round(rates[side] * operations / peak, 4) for side in ('ours', 'peer')}
    return {'device': device, 'of_peak': parts}


def _peer_command(case: Case, python: str, threads: int, layout: str, plan: Plan) -> list[str]:
    script = str(PEERS / 'networks_with_torch.py')
    return [
        python,
        script,
        case.reference,
        *map(str, (case.batch, case.pixels, threads)),
        layout,
        plan.dtype,
    ]


def _faster(peers: dict[str, Process], work: str) -> str:
    """Returns the memory format in which the peer is faster."""
    seconds = {}
    for layout, peer in peers.items():
        count = repetitions(peer, work, 0.3)
        seconds[layout] = min(peer.timed(work, 0, count) / count for _ in range(2))
    return min(seconds, key=lambda layout: seconds[layout])


def _check_same(ours: Process, peer: Process, case: Case) -> None:
    counts = ours.about['params'], peer.about['params']
    if counts[0] != counts[1]:
        raise UserError(
            f'{case.name} has {counts[0]:,} parameters and {case.reference} {counts[1]:,}: '
            'expected the same network.'
        )


def line(case: Case, row: dict[str, Any]) -> str:
    """Returns the printed lines of a network."""
    lines = [f'{case.name} {case.batch}x{case.pixels}']
    for work in [work for work in WORKS if work in row]:
        one = row[work]
        lines.append(
            f'  {WORKS[work]}: {one["ours"]:,.1f} images/s, PyTorch ({one["format"]}) '
            f'{one["peer"]:,.1f}, ratio {one["ratio"]:.2f}'
            f'{disturbance(one["others"])}'
        )
    if 'of_peak' in row:
        parts = {side: f'{100 * part:.1f} %' for side, part in row['of_peak'].items()}
        lines.append(f'  of the peak of {row["device"]}: {parts["ours"]}, PyTorch {parts["peer"]}')
    gib = {side: bytes_ / 2**30 for side, bytes_ in row['peak'].items()}
    lines.append(
        f'  peak memory: {gib["ours"]:.2f} GiB, PyTorch {gib["peer"]:.2f}, '
        f'ratio {row["peak"]["ratio"]:.2f}'
    )
    starts = row['start']
    kinds = {'cold': ' cold', 'warm': ' warm', 'ours': ''}
    own = ', '.join(f'{starts[kind]:.1f} s{word}' for kind, word in kinds.items() if kind in starts)
    lines.append(f'  first step: {own}, PyTorch {starts["peer"]:.1f} s')
    return '\n'.join(lines)


def summarize(rows: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Returns the geometric means and minima of the ratios of networks."""
    ratios = {key: {name: row[key]['ratio'] for name, row in rows.items()} for key in keys}
    return {key: summary(values) for key, values in ratios.items()}

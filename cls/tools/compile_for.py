"""Compiles a config's train step for TPUs that this machine lacks; prints its memory and speed.

  python -m cls.tools.compile_for --topology v5e:4x4 --config configs/resnet.py:imagenet2012
                                  [--slices N] [--config.FIELD=VALUE ...] [--json] [--quick]
                                  [--against linen|FILE.py]
  python -m cls.tools.compile_for --all [PATTERN] [--quick] [--write launch/README.md]

The step is the trainer's own for the chips of the slice, with the config's batch, augmentation,
optimizer and types. Neither a TPU nor images are needed: shapes are enough, and of ImageNet only
the number of images is used. The TPU's compiler is needed, libtpu (launch/requirements-tpu.txt).

--all compiles the step of every config that has ImageNet for a v5e and a v5p slice, see
cls/tools/tpu/pods.py. PATTERN, as 'resnet*', selects configs by name. Results are kept in
launch/compiled.json and not compiled again. --write renews the table in a file; without --all only
the kept results are used.

--quick compiles with the lowest level of optimization of JAX, in less time. The memory differs by
some percent. The time of the kernels is left out, because such kernels are not for use. A later
--all without --quick compiles these entries again.

--against compiles a second step for the same chips, images and pixels, and prints its bytes and
cycles, and those of ours as a multiple. `linen` is the same step with the convolutions, norms and
pools of flax.linen instead of ours. A file has a function lower(devices, batch, pixels) and returns
a jax.stages.Lowered, as tests/tools/flax_resnet50.py does.

The output:

memory      of a chip, in GiB. Donated buffers (the state) count once. If the program does not fit,
            the compiler reports only the memory that it would need.
a step      of a chip: floating-point operations and bytes read and written, by XLA's count. Some of
            these bytes never leave the chip, so their time at the HBM's bandwidth is not a strict
            bound. For a gather, as in rotating an image, XLA counts far more bytes than are read.
collectives of a chip: the bytes of their results.
moves       operations of a chip that only copy, convert or reorder numbers, with results of 1 MB or
            more: the bytes of these, and the shape of the largest. Transfers between a chip's
            memories are not among them.
bounds      the time of the step's operations, bytes and collectives, each at the chip's peak (see
            cls/tools/tpu/slices.py). Apart from the caveat on bytes, a step is no faster than the
            slowest of them. The network between several slices is left out. MFU is the model's own
            operations (three times the forward multiply-adds, two each) over the operations that
            the chips could do in the same time.
estimate    the sum of the cycles that the TPU's compiler expects for the kernels; the bound of the
            collectives if that is more.
"""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cls import ensemble
from cls.cli import Parser, run
from cls.config import load as configs
from cls.errors import UserError
from cls.models.registry.complexity import complexity
from cls.programs import compile_train_step
from cls.search import supernets  # noqa: F401  registers networks and trainings
from cls.setup import Setup, abstract_state, set_up
from cls.steps.phases import Phase
from cls.tools import markdown
from cls.tools.tpu import against, pods, slices
from cls.tools.tpu.costs import Memory, Moved, Sent, costs, too_large
from cls.tools.tpu.slices import GIB, Chip

PROG = 'python -m cls.tools.compile_for'


@dataclasses.dataclass(frozen=True)
class Report:
    """The costs of a compiled train step, per chip unless noted otherwise."""

    chips: int
    batch: int  # images, on all chips
    pixels: int
    model_flops: float  # of the model itself, on all chips
    compile_seconds: float
    quick: bool  # compiled with the least effort
    fits: bool
    memory: Memory
    flops: float = 0.0
    bytes_accessed: float = 0.0
    cycles: float = 0.0  # expected for the kernels; 0 if the compiler does not report them
    collectives: dict[str, Sent] = dataclasses.field(default_factory=dict)
    moves: dict[str, Moved] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The costs of a step that ours is compared with, per chip."""

    fits: bool
    memory: Memory
    bytes_accessed: float = 0.0
    cycles: float = 0.0


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Lower bounds on the seconds of a step, by each of a chip's resources."""

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """The bound of the scarcest resource."""
        return max(dataclasses.astuple(self))

    @property
    def resource(self) -> str:
        """The name of the scarcest resource."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


# ------------------------------------------------------------------------------------- the command


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    flags.add_argument('--topology', help='CHIP:SHAPE, as v5e:4x4, v5p:2x2x2')
    flags.add_argument('--slices', type=int, default=1, help='number of such slices, connected')
    flags.add_argument('--config', help='RECIPE[:ARM], as for cls train')
    flags.add_argument('--json', action='store_true', help='one JSON object')
    flags.add_argument('--quick', action='store_true', help='no optimization, no estimate')
    flags.add_argument(
        '--against', metavar='FILE', help=f"another step: '{against.LINEN}' or a file's"
    )
    flags.add_argument('--all', nargs='?', const='*', metavar='PATTERN', help='compile the table')
    flags.add_argument('--write', type=Path, metavar='FILE', help='renew the table in a file')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Prints the costs of a step, or compiles the table; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    fields = [argument for argument in arguments if argument.startswith('--config.')]
    args = parser(prog).parse_args([a for a in arguments if a not in fields])
    if args.all or args.write:
        alone = args.topology or args.config or args.against or args.json or fields
        if alone or args.slices != 1:
            raise UserError(
                '--all and --write take no --topology, --slices, --config, --against and --json.'
            )
        if args.quick and not args.all:
            raise UserError('--write alone compiles nothing: expected no --quick.')
        if args.write:  # before hours of work
            markdown.check(args.write, pods.BEGIN)
        complete = pods.compile_all(args.all, args.quick) if args.all else True
        if args.write:
            pods.write(args.write)
        return 0 if complete else 1
    if not (args.topology and args.config):
        raise UserError(
            'give --topology and --config, as --topology v5e:4x4 '
            '--config configs/resnet.py:imagenet2012, or --all.'
        )
    wanted = slices.parse(args.topology, args.slices)
    config = configs.load(args.config, configs.parse_overrides(fields))
    other = against.read(args.against) if args.against else None
    if args.quick:
        jax.config.update('jax_optimization_level', 'O0')
    with contextlib.redirect_stdout(sys.stderr):  # data may have something to say
        setup = prepared(config, slices.devices(wanted))
    lowered = None if other is None else baseline_step(setup, other)
    report = report_of(setup)
    chip = slices.CHIPS[wanted.chip]
    if not args.json:  # before the other step is compiled, which can take an hour
        print(f'{args.config} on {wanted}\n{text(report, chip)}', flush=True)
    baseline = baseline_of(setup, lowered) if lowered else None
    if args.json:
        values = to_json(report, chip)
        print(json.dumps(values | ({'against': dataclasses.asdict(baseline)} if baseline else {})))
    elif baseline:
        print(comparison(report, baseline, args.against))
    return 0


# --------------------------------------------------------------------------------- the measurement


def prepared(config: ConfigDict, devices: Sequence[Any]) -> Setup:
    """Returns the setup of a config, for devices that may be absent.

    Raises UserError if a config's fields do not fit together, as training does.
    """
    if ensemble.is_ensemble(config):
        raise UserError(
            f'the config is of {len(config.members)} models, trained one after the other '
            f'({", ".join(config.members)}): give the config of one of them.'
        )
    return set_up(without_files(config), list(devices))


def report_of(setup: Setup) -> Report:
    """Returns the costs of the train step of a setup.

    For a run with images of several sizes it is the step on the largest.
    """
    phase = largest_phase(setup)
    cost = complexity(setup.model, phase.size, setup.info.image_shape[2])
    begin = time.perf_counter()
    measured = compiled_costs(lambda: _compile(setup), setup.recipe.accumulate)
    return Report(
        chips=setup.mesh.size,
        batch=setup.batch,
        pixels=phase.size,
        model_flops=6.0 * setup.batch * cost.macs,
        compile_seconds=time.perf_counter() - begin,
        quick=_is_quick(),
        **measured,
    )


def baseline_step(setup: Setup, other: against.Lower | str) -> jax.stages.Lowered | str:
    """Returns another step for the same chips, images and pixels, or LINEN.

    Raises UserError if a file's function returns anything else.

    Args:
      setup: the setup of our step.
      other: makes the other step; LINEN for ours with the layers of flax.linen.
    """
    if isinstance(other, str):
        return other
    try:
        lowered: Any = other(list(setup.mesh.devices.flat), setup.batch, largest_phase(setup).size)
    except Exception as error:
        raise UserError(f'--against: lower(): {type(error).__name__}: {error}') from error
    if not isinstance(lowered, jax.stages.Lowered):
        raise UserError(
            f'--against: lower() returned {type(lowered).__name__}: expected jax.stages.Lowered.'
        )
    return lowered


def baseline_of(setup: Setup, other: jax.stages.Lowered | str) -> Baseline:
    """Returns the costs of another step, see `baseline_step`."""
    if isinstance(other, str):
        with against.linen():
            measured = compiled_costs(lambda: _compile(setup), setup.recipe.accumulate)
    else:
        measured = compiled_costs(other.compile)
    fields = {field.name for field in dataclasses.fields(Baseline)}
    return Baseline(**{name: value for name, value in measured.items() if name in fields})


def compiled_costs(compile_step: Callable[[], Any], accumulate: int = 1) -> dict[str, Any]:
    """Returns the costs of a program, by the names of Report's fields.

    Args:
      compile_step: compiles the program.
      accumulate: the number of microbatches.
    """
    try:
        compiled = compile_step()
    except jax.errors.JaxRuntimeError as error:
        needed = too_large(str(error))
        if needed is None:
            raise
        return {'fits': False, 'memory': Memory(needed)}
    measured = {'fits': True, **costs(compiled, accumulate)}
    if _is_quick():
        measured['cycles'] = 0.0  # the kernels of this mode are slow, and not for use
    return measured


def _compile(setup: Setup) -> Any:
    state, optimizer = setup.new_state_shapes()
    where = abstract_state(state, setup.mesh)
    return compile_train_step(setup, optimizer, where, largest_phase(setup))


def _is_quick() -> bool:
    return jax.config.jax_optimization_level == 'O0'  # pyright: ignore[reportAttributeAccessIssue]


def without_files(config: ConfigDict) -> ConfigDict:
    """Returns the config with random images instead of ImageNet's, so that no file is read.

    The numbers of images and classes are kept; a compiled step depends on no other property of
    data.
    """
    if config.data.name != 'tfds:imagenet2012':
        return config
    config = config.copy_and_resolve_references()
    config.data.name, config.data.num_classes = 'synthetic', config.data.num_classes or 1000
    return config


def largest_phase(setup: Setup) -> Phase:
    """Returns the first phase of a run with the largest images."""
    return max(setup.phases.following(0), key=lambda phase: phase.size)


# -------------------------------------------------------------------------------------- the report


def bounds(report: Report, chip: Chip) -> Bounds:
    """Returns the lower bounds on a step's time at the peaks of a chip."""
    return Bounds(
        report.flops / chip.flops,
        report.bytes_accessed / chip.bandwidth,
        sum(each.sent for each in report.collectives.values()) / chip.links,
    )


def mfu(report: Report, chip: Chip, seconds: float) -> float:
    """Returns the model FLOPs utilization of a step of this duration."""
    return report.model_flops / (report.chips * chip.flops * seconds)


def estimate(report: Report, chip: Chip) -> float:
    """Returns the seconds of a step: the more of the compiler's estimate and the links' bound."""
    return max(report.cycles / chip.clock, bounds(report, chip).links)


def to_json(report: Report, chip: Chip) -> dict[str, Any]:
    """Returns a report and its bounds for a chip as plain data, in seconds and bytes."""
    values = dataclasses.asdict(report) | {'memory_of_chip': round(chip.memory)}
    if not report.fits:
        return values
    limits = bounds(report, chip)
    values |= {
        'bounds': dataclasses.asdict(limits),
        'bound_by': limits.resource,
        'images_per_second_bound': report.batch / limits.seconds,
        'mfu_bound': mfu(report, chip, limits.seconds),
    }
    if not report.cycles:
        return values
    expected = estimate(report, chip)
    return values | {
        'seconds_estimate': expected,
        'images_per_second_estimate': report.batch / expected,
        'mfu_estimate': mfu(report, chip, expected),
    }


def comparison(report: Report, baseline: Baseline, name: str) -> str:
    """Returns the costs of another step, and ours as a multiple of them, as text."""
    if not (report.fits and baseline.fits):
        usage = f'{baseline.memory.needed / GIB:.2f} GiB'
        return f'{"against":12}{name}: {usage}{"" if baseline.fits else ": DOES NOT FIT"}'
    rows = [('bytes', 'GB accessed', report.bytes_accessed, baseline.bytes_accessed, 1e9)]
    if report.cycles and baseline.cycles:
        rows.append(('cycles', 'million cycles', report.cycles, baseline.cycles, 1e6))
    rows.append(('memory', 'GiB', report.memory.needed, baseline.memory.needed, GIB))
    theirs = ', '.join(f'{value / unit:.2f} {what}' for _, what, _, value, unit in rows)
    ratios = ', '.join(f'{own / other:.3f} x the {kind}' for kind, _, own, other, _ in rows)
    return f'{"against":12}{name}: {theirs}\n{"ours":12}{ratios}'


def text(report: Report, chip: Chip) -> str:
    """Returns a report as text."""
    return '\n'.join(f'{name:12}{line}' for name, line in _lines(report, chip))


def _lines(report: Report, chip: Chip) -> Iterator[tuple[str, str]]:
    each, parts = report.memory, report.chips
    yield 'batch', f'{report.batch:,} on {parts} chips, {report.pixels} pixels'
    usage = f'{each.needed / GIB:.2f} GiB of {chip.memory / GIB:.2f}'
    if not report.fits:
        yield 'memory', f'{usage}: DOES NOT FIT'
        yield 'compiled in', f'{report.compile_seconds:.0f} s'
        return
    sizes = ('arguments', 'outputs', 'temporaries', 'code')
    named = ', '.join(f'{name} {getattr(each, name) / GIB:.2f}' for name in sizes)
    yield 'memory', f'{usage}: {named}, outputs in place {each.aliased / GIB:.2f}: fits'
    yield (
        'a step',
        f'{report.flops / 1e9:,.2f} GFLOP, {report.bytes_accessed / 1e9:.2f} GB accessed'
        + (f', {report.cycles / 1e6:.1f} million cycles' if report.cycles else ''),
    )
    sent = (f'{kind} {one.count} ({_megabytes(one)})' for kind, one in report.collectives.items())
    yield 'collectives', ', '.join(sent) or 'none'
    moved = (
        f'{kind} {one.count} ({_megabytes(one)}, {one.largest})'
        for kind, one in report.moves.items()
    )
    yield 'moves', ', '.join(moved) or 'none'
    limits = bounds(report, chip)
    yield (
        'bounds',
        f'compute {_ms(limits.compute)}, HBM {_ms(limits.memory)}, links {_ms(limits.links)}: '
        + _speed(report, chip, limits.seconds),
    )
    if report.cycles:
        expected = estimate(report, chip)
        yield 'estimate', f'{_ms(expected)}: {_speed(report, chip, expected)}'
    yield 'compiled in', f'{report.compile_seconds:.0f} s'


def _megabytes(of: Sent | Moved) -> str:
    return f'{of.bytes / 1e6:,.2f} MB'


def _ms(seconds: float) -> str:
    return f'{1000 * seconds:.2f} ms'


def _speed(report: Report, chip: Chip, seconds: float) -> str:
    rate, part = report.batch / seconds, mfu(report, chip, seconds)
    return f'{rate:,.0f} images/s, MFU {100 * part:.1f} %'


if __name__ == '__main__':
    run(main)

"""The costs of a compiled program: memory, operations, bytes, cycles and collectives of a chip."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from cls.tools.tpu import hlo

LEAST_MOVED = 10**6  # bytes; smaller results of moves are not counted

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TOO_LARGE = re.compile(
    r'(?:Used |\()([\d.]+)([KMGT])\)?(?: of [\d.]+\w hbm| exceeds available HBM)'
)
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a chip's memory that a program takes; only `needed` is known if it does not fit.

    `aliased` bytes of the outputs reuse the buffers of arguments.
    """

    needed: int
    arguments: int = 0
    outputs: int = 0
    aliased: int = 0
    temporaries: int = 0
    code: int = 0


@dataclasses.dataclass(frozen=True)
class Sent:
    """The collectives of one kind in a step."""

    count: int
    bytes: int  # of their results on a chip
    sent: float  # the fewest bytes that a chip has to send for them


@dataclasses.dataclass(frozen=True)
class Moved:
    """The moves of one kind in a step, see `hlo.moves`."""

    count: int
    bytes: int  # of their results on a chip
    largest: str  # the shape of the largest result, as 'f32[4,8]'


def costs(compiled: Any, accumulate: int = 1) -> dict[str, Any]:
    """Returns the costs of a compiled program for a chip, by the names of Report's fields.

    XLA counts the body of a loop once. Almost all of a step is in the loop over its microbatches,
    if it has one, so operations, bytes and cycles are multiplied by their number.
    """
    memory, cost, program = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    sizes = {
        'arguments': memory.argument_size_in_bytes,
        'outputs': memory.output_size_in_bytes,
        'aliased': memory.alias_size_in_bytes,
        'temporaries': memory.temp_size_in_bytes,
        'code': memory.generated_code_size_in_bytes,
    }
    apart = sum(size for name, size in sizes.items() if name != 'aliased')
    return {
        'memory': Memory(apart - sizes['aliased'], **sizes),
        'flops': accumulate * cost['flops'],
        'bytes_accessed': accumulate * cost['bytes accessed'],
        # Not the 'optimal_seconds' of XLA's analysis: they count -1 second for each custom call.
        'cycles': accumulate * sum(map(int, _CYCLES.findall(program))),
        'collectives': sent(hlo.collectives(program)),
        'moves': moved(hlo.moves(program)),
    }


def sent(collectives: Sequence[hlo.Collective]) -> dict[str, Sent]:
    """Returns the sums of collectives by kind."""
    totals: dict[str, Sent] = {}
    for each in collectives:
        old = totals.get(each.kind, Sent(0, 0, 0.0))
        totals[each.kind] = Sent(
            old.count + each.times,
            old.bytes + each.times * each.bytes,
            old.sent + each.times * least_sent(each),
        )
    return totals


def moved(moves: Sequence[hlo.Move]) -> dict[str, Moved]:
    """Returns the sums of moves by kind, of those with results of LEAST_MOVED bytes or more."""
    totals: dict[str, Moved] = {}
    for each in sorted(moves, key=lambda move: -move.bytes):
        if each.bytes >= LEAST_MOVED:
            old = totals.get(each.kind, Moved(0, 0, each.shape))
            bytes_ = old.bytes + each.times * each.bytes
            totals[each.kind] = Moved(old.count + each.times, bytes_, old.largest)
    return totals


def least_sent(collective: hlo.Collective) -> float:
    """Returns the fewest bytes that each device has to send (Patarasuk & Yuan 2009).

    Each of n devices has, or gets, an n-th of the reduced or gathered array. It sends n - 1 such
    parts, in an all-reduce twice.
    """
    others = collective.group - 1
    size = collective.bytes
    return {
        'all-reduce': 2 * size * others / collective.group,
        'all-gather': size * others / collective.group,
        'reduce-scatter': size * others,
        'all-to-all': size * others / collective.group,
        'collective-permute': size,
    }[collective.kind]


def too_large(message: str) -> int | None:
    """Returns the bytes that a program needs, from the compiler's error; None for other errors."""
    match = _TOO_LARGE.search(message)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None

"""The collectives and the moves of a compiled program, read from its optimized HLO.

  for each in collectives(jax.jit(f).lower(*args).compile().as_text()): ...

HLO is XLA's intermediate language; the optimized text is the program of one device. CPU, GPU and
TPU write the same operation in different forms, which are converted to one form here:

* asynchronous pairs (`all-gather-start`, `all-gather-done`, `async-start`) count once;
* on TPU a reduce-scatter is a fusion named `all-reduce-scatter`, with an all-reduce and a slice of
  its result; XLA's CPU backend makes none and keeps the all-reduce before the slice;
* TPU splits some collectives into parts that run in parallel with other operations, in fusions that
  repeat the operation with the same channel. Within one computation, operations with the same
  channel are different ones: a function that is called several times was copied into it;
* groups of devices are listed, or given as an iota (`[2,4]<=[8]`), or as axes of a mesh.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')

# Operations that compute nothing, and those that may be next to them in a fusion.
MOVES = (
    *('copy', 'transpose', 'convert', 'reverse', 'reshape', 'slice', 'concatenate', 'pad'),
    *('dynamic-slice', 'dynamic-update-slice'),
)
_FREE = {'parameter', 'constant', 'bitcast', 'tuple', 'get-tuple-element'}

_OPERATION = re.compile(r'\s*(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\(')
_COLLECTIVE = re.compile(
    rf'\s*(?:ROOT )?%?[\w.-]+ = (\([^%]*?\)|\S+) ({"|".join(KINDS)})(-start)?\('
)
_HEADER = re.compile(r'(?:ENTRY )?%?([\w.-]+) \(.*\) -> (.*) \{$')
_CALL = re.compile(r'(?:calls|to_apply|body|condition|\w+_computation)=%?([\w.-]+)')
_FUSED = re.compile(r' fusion\(.*calls=%?([\w.-]+)')
_CHANNEL = re.compile(r'\bchannel_id=(\d+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,<= ]*)\]')
_BITS = re.compile(r'[a-z]+(\d+)')


@dataclasses.dataclass(frozen=True)
class Collective:
    """An operation that exchanges data between devices."""

    kind: str  # one of KINDS
    bytes: int  # size of the result on one device
    group: int  # number of devices that take part
    times: int = 1  # executions per run of the program: iterations of a loop of known length


def collectives(hlo_text: str) -> list[Collective]:
    """Returns the collectives of optimized HLO text, in the order of the text.

    Operations that XLA combined into one count as one, with the sum of the bytes of their results.
    """
    devices = math.prod(map(int, re.findall(r'(?:num_partitions|replica_count)=(\d+)', hlo_text)))
    times = _times(hlo_text)
    found, channels = [], {}
    for computation, result, line in _lines(hlo_text):
        match = _COLLECTIVE.match(line)
        channel = _CHANNEL.search(line)
        if not match:
            continue
        if channel and channels.setdefault(channel[1], computation) != computation:
            continue
        shape, kind, start = match.groups()
        if start and kind != 'all-reduce':  # (operands, results, ...)
            shape = _elements(shape)[1]
        if kind == 'all-reduce' and computation.startswith('all-reduce-scatter'):
            shape, kind = result, 'reduce-scatter'
        group = _group(line, devices)
        found.append(Collective(kind, size(shape), group, times[computation]))
    return found


@dataclasses.dataclass(frozen=True)
class Move:
    """An operation that only copies, converts or reorders numbers."""

    kind: str  # of MOVES; 'convert + transpose' for a fusion of two
    shape: str  # of the result on one device, as 'f32[4,8]'
    times: int = 1  # executions per run of the program

    @property
    def bytes(self) -> int:
        """The size of the result on one device."""
        return size(self.shape)


def moves(hlo_text: str) -> list[Move]:
    """Returns the moves of optimized HLO text, in its order: operations, or fusions of only moves.

    A TPU's transfers between its memories (copy-start, slice-start) are not among them: they
    are part of the operation that uses the numbers.
    """
    times, inside, fused, operations = _times(hlo_text), defaultdict(set), set(), []
    for computation, _, line in _lines(hlo_text):
        if match := _OPERATION.match(line):
            shape, kind = match.groups()
            called = _FUSED.search(line)
            name = called[1] if called else ''
            inside[computation].add(kind)
            fused.add(name)
            operations.append((computation, shape, kind, name))
    found = []
    for computation, shape, kind, name in operations:
        kinds = (inside[name] if name else {kind}) - _FREE
        if computation not in fused and kinds and kinds <= set(MOVES):
            arrays = ', '.join(f'{dtype}[{sizes}]' for dtype, sizes in _ARRAY.findall(shape))
            found.append(Move(' + '.join(sorted(kinds)), arrays, times[computation]))
    return found


def size(shape: str) -> int:
    """Returns the bytes of an array or tuple, as 'f32[4,128]{1,0}' or '(f32[4], bf16[2,2])'."""
    total = 0
    for kind, dimensions in _ARRAY.findall(shape):
        number = _BITS.match(kind) if kind not in ('pred', 'token') else None
        bits = int(number[1]) if number else 8 * (kind == 'pred')
        count = math.prod(int(n.strip('<= ')) for n in dimensions.split(',') if n)
        total += -(-count * bits // 8)
    return total


def _lines(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields (computation, shape of its result, line) for each line inside a computation."""
    computation, result = '', ''
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            computation, result = header.groups()
        elif computation:
            yield computation, result, line


def _times(text: str) -> dict[str, int]:
    """Returns {computation: number of executions in a run of the program}.

    All branches count as executed, loops of unknown length as executed once.
    """
    callers = defaultdict(list)
    for caller, _, line in _lines(text):
        names = _CALL.findall(line)
        names += [n.strip(' %') for found in _BRANCHES.findall(line) for n in found.split(',')]
        trips = _TRIPS.search(line)
        for name in names:
            callers[name].append((caller, int(trips[1]) if trips else 1))
    found: dict[str, int] = {}

    def count(name: str) -> int:
        if name not in found:
            found[name] = sum(n * count(caller) for caller, n in callers[name]) or 1
        return found[name]

    return {name: count(name) for name in {computation for computation, _, _ in _lines(text)}}


def _elements(shape: str) -> list[str]:
    """Returns the elements of a tuple's shape."""
    parts, depth = [''], 0
    for char in shape[1:-1]:
        depth += (char in '({[') - (char in ')}]')
        if char == ',' and not depth:
            parts.append('')
        else:
            parts[-1] += char
    return parts


def _group(line: str, devices: int) -> int:
    pairs = re.search(r'source_target_pairs=\{(.*?)\}\}', line)
    if pairs:
        return len(set(re.findall(r'\d+', pairs[1])))
    listed = re.search(r'replica_groups=\{\{([\d,]*)\}', line)
    if listed:
        return len(listed[1].split(','))
    iota = re.search(r'replica_groups=\[\d+,(\d+)\]<=', line)
    if iota:
        return int(iota[1])
    mesh = re.search(r'replica_groups=@?mesh[\w.]*\[(.*?)\].*? \{(.*?)\}', line)
    if mesh:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])  # 'axis', or 'axis':(1)2
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices

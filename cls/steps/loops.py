"""Loops over equal blocks: a deep network's program, with one copy of a block that repeats.

A network of 200 equal residual blocks is a program of 200 copies, and compilers need more than 200
times as long for it (on a CPU with the square of the depth, mostly for the order and the memory of
its operations). A loop is compiled once.

As in cls.steps.remat, the unchanged network is traced, and its program (jaxpr) is cut at the
ends of its blocks. Consecutive pieces with equal operations become a `lax.scan`. Their
parameters, statistics and constants, such as the numbers that make a random key, are stacked inside
the program. So networks need no code for this, and names of parameters and random numbers stay.
"""

import collections
import dataclasses
import functools
import itertools
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from cls.nn.cpu import looped
from cls.nn.cpu.lowering import xla_conv
from cls.steps import traces

# Fewer equal blocks are not worth a loop, whose iterations store what gradients read later.
MIN_BLOCKS = 12
_ADDRESS = re.compile('0x[0-9a-f]+')


def apply(
    model: nn.Module, variables: Any, images: jax.Array, mutable: Sequence[str], **arrays: Any
) -> tuple[jax.Array, Any]:
    """Returns the result of `model.apply` in training, with loops over equal blocks.

    Args:
      model: a model of the registry.
      variables: the variables of the model.
      images: (N, H, W, C), normalized.
      mutable: collections to return.
      **arrays: `rngs`, and further arguments of the model, such as `progress`.
    """
    if not _may_repeat(variables['params']):
        return model.apply(variables, images, train=True, mutable=mutable, **arrays)
    traced = traces.trace(model, variables, images, mutable, 'block', arrays)
    return traced.result(_evaluate(traced.pieces(), traced))


def _may_repeat(params: Mapping[str, Any]) -> bool:
    """Whether a network has MIN_BLOCKS blocks with parameters of the same shapes."""

    def shapes(path):
        block: Any = params
        for name in path:
            block = block[name]
        leaves, tree = jax.tree.flatten(block)
        return tree, tuple(x.shape for x in leaves)

    counts = collections.Counter(map(shapes, traces.blocks(params)))
    return max(counts.values(), default=0) >= MIN_BLOCKS


def _evaluate(pieces: Sequence[traces.Piece], traced: traces.Traced) -> dict[Any, Any]:
    """Returns the values of a program's variables, with equal consecutive pieces as loops."""
    values = traced.values()
    used = traces.used_after(pieces, traced.results)
    shapes = [_Shape.of_piece(piece) for piece in pieces]
    start = 0
    for _, equal in itertools.groupby(shapes, lambda shape: shape.operations):
        count = len(list(equal))
        stop = start + count
        loop = _loop(shapes[start:stop], used[stop - 1]) if count >= MIN_BLOCKS else None
        if loop:
            values.update(loop.run(values, traced))
        else:
            for i in range(start, stop):
                values.update(traced.evaluate(pieces[i], values, used[i]))
        start = stop
    return values


@dataclasses.dataclass(frozen=True)
class _Shape:
    """A piece of a program: its operations without names of variables, and these names."""

    equations: traces.Piece
    operations: tuple[Any, ...]
    takes: list[Any]  # variables from outside, and literals
    outputs: list[Any]

    @classmethod
    def of_piece(cls, piece: traces.Piece) -> '_Shape':
        operations, takes, outputs = [], [], []
        numbers: dict[Any, tuple[str, int]] = {}
        for eqn in piece:
            reads = []
            for x in eqn.invars:
                if isinstance(x, core.Literal) or x not in numbers:
                    number = ('outside', len(takes))
                    takes.append(x)
                    if isinstance(x, core.Var):
                        numbers[x] = number
                else:
                    number = numbers[x]
                reads.append((number, str(x.aval)))
            for x in eqn.outvars:
                numbers[x] = ('inside', len(outputs))
                outputs.append(x)
            made = tuple(str(x.aval) for x in eqn.outvars)
            operations.append((eqn.primitive, _plain(eqn.params), tuple(reads), made))
        return cls(piece, tuple(operations), takes, outputs)


def _plain(param: Any) -> Any:
    """Returns a parameter of an operation in a form that is equal for equal operations.

    Programs inside are compared as text, without the addresses of functions, and by the rules of
    the derivatives in them. A rule is a new function in each call: it is compared by its code and
    by all that it refers to.
    """
    if isinstance(param, dict):
        return tuple((name, _plain(value)) for name, value in sorted(param.items()))
    if isinstance(param, list | tuple):
        return type(param).__name__, tuple(map(_plain, param))
    if isinstance(param, core.ClosedJaxpr):
        return _plain(param.jaxpr), tuple(map(id, param.consts))
    if isinstance(param, core.Jaxpr):
        return _ADDRESS.sub('', str(param)), tuple(_rules(param))
    if hasattr(param, 'debug_info'):
        return _described(param, [])
    return getattr(param, '__qualname__', param)


def _rules(jaxpr: core.Jaxpr) -> Iterator[Any]:
    """Yields the rules of derivatives in a program, in the form of `_plain`."""
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            inner = getattr(value, 'jaxpr', value)
            if isinstance(inner, core.Jaxpr):
                yield from _rules(inner)
            elif hasattr(value, 'debug_info'):
                yield _described(value, [])


# Of JAX, new in each call: they have no numbers.
_BOOKKEEPING = ('Store', 'EqualStore', 'InitialResultPaths', 'DynamicJaxprTrace', 'object')
_SIMPLE = (int, float, complex, str, bytes, np.generic, np.dtype, type, type(None), types.CodeType)


def _described(x: Any, above: list[Any]) -> Any:
    """Returns a function as its code and what it refers to, or a value that it refers to.

    Arrays and unknown objects are equal to themselves alone.

    Args:
      x: the function or value.
      above: what refers to it; a function may refer to itself.
    """
    if isinstance(x, _SIMPLE):
        return type(x).__name__, repr(x) if isinstance(x, float | complex) else x
    if any(x is other for other in above):
        return 'above', len(above) - next(i for i, other in enumerate(above) if other is x)

    def parts(*values: Any) -> Any:
        return tuple(_described(value, [*above, x]) for value in values)

    if isinstance(x, list | tuple):
        return type(x).__name__, parts(*x)
    if isinstance(x, dict):
        return 'dict', parts(*x, *x.values())
    if isinstance(x, functools.partial):
        return 'partial', parts(x.func, x.args, x.keywords)
    if isinstance(x, types.FunctionType):
        cells = [cell.cell_contents for cell in x.__closure__ or () if _is_filled(cell)]
        return 'function', parts(x.__code__, cells, x.__defaults__, x.__kwdefaults__)
    if isinstance(x, types.MethodType):
        return 'method', parts(x.__func__, x.__self__)
    if hasattr(x, 'transforms'):  # a function on which JAX puts its own
        return 'transformed', parts(x.f, x.transforms)
    if hasattr(x, '__wrapped__'):  # jitted, or with a derivative of its own
        rules = (getattr(x, name, None) for name in ('fwd', 'bwd', 'jvp'))
        return 'wrapped', parts(x.__wrapped__, *rules)
    if type(x).__name__ in ('Hashable', 'Unhashable'):  # around a static argument
        return 'static', parts(x.val)
    if type(x).__name__ in ('ShapedArray', 'PyTreeDef'):
        return type(x).__name__, str(x)
    return type(x).__name__, None if type(x).__name__ in _BOOKKEEPING else id(x)


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


@dataclasses.dataclass(frozen=True)
class _Loop:
    """Equal pieces as a loop."""

    shapes: list[_Shape]
    fixed: list[int]  # takes that are the same in each piece
    stacked: list[int]  # takes that are different, from outside of the loop
    delayed: dict[int, tuple[int, int]]  # takes that are the output i of the piece d before
    last: list[int]  # outputs of the last piece that are used later
    all: list[int]  # outputs of several pieces that are used later

    def run(self, values: Mapping[Any, Any], traced: traces.Traced) -> dict[Any, Any]:
        """Returns the values of the outputs that are used later."""
        first, takes = self.shapes[0], [shape.takes for shape in self.shapes]

        def value(x):
            return x.val if isinstance(x, core.Literal) else values[x]

        lines = {
            k: [value(takes[d - 1 - i][k]) for i in range(d)]  # the newest first
            for k, (_, d) in self.delayed.items()
        }
        empty = {
            q: jnp.zeros(first.outputs[q].aval.shape, first.outputs[q].aval.dtype)
            for q in self.last
        }
        xs = {
            k: jnp.stack([jnp.asarray(value(t[k]), first.takes[k].aval.dtype) for t in takes])
            for k in self.stacked
        }
        constant = {k: value(first.takes[k]) for k in self.fixed}
        piece, names = _with_names(first, self.stacked)
        arguments = [k for k, x in enumerate(names) if isinstance(x, core.Var)]
        needed = {*self.last, *self.all, *(q for q, _ in self.delayed.values())}
        gives = {q: first.outputs[q] for q in sorted(needed)}
        compute = _function(traced, piece, [names[k] for k in arguments], list(gives.values()))

        def body(carry, xs):
            lines, _ = carry
            inputs = constant | xs | {k: line[-1] for k, line in lines.items()}
            results = compute(*(inputs[k] for k in arguments))
            outputs = dict(zip(gives, results, strict=True))
            lines = {k: [outputs[self.delayed[k][0]], *line[:-1]] for k, line in lines.items()}
            return (lines, {q: outputs[q] for q in self.last}), {q: outputs[q] for q in self.all}

        (_, last), stacks = jax.lax.scan(body, (lines, empty), xs, length=len(self.shapes))
        made = {self.shapes[-1].outputs[q]: x for q, x in last.items()}
        for q, stack in stacks.items():
            made |= {shape.outputs[q]: stack[i] for i, shape in enumerate(self.shapes)}
        return made


def _loop(shapes: list[_Shape], used: set[Any]) -> _Loop | None:
    """Returns equal pieces as a loop, None if one depends on others in several ways."""
    made = {x: (i, q) for i, shape in enumerate(shapes) for q, x in enumerate(shape.outputs)}
    fixed, stacked, delayed = [], [], {}
    for k in range(len(shapes[0].takes)):
        reads = [shape.takes[k] for shape in shapes]
        sources = [made.get(x) if isinstance(x, core.Var) else None for x in reads]
        if all(_same(x, reads[0]) for x in reads):
            fixed.append(k)
        elif not any(sources):
            stacked.append(k)
        elif delay := _delay(sources):
            delayed[k] = delay
        else:
            return None
    later = collections.defaultdict(set)
    for x in used:
        if x in made:
            later[made[x][1]].add(made[x][0])
    last = [q for q, pieces in later.items() if pieces == {len(shapes) - 1}]
    every = [q for q in later if q not in last]
    return _Loop(shapes, fixed, stacked, delayed, last, every)


def _with_names(shape: _Shape, stacked: Sequence[int]) -> tuple[traces.Piece, list[Any]]:
    """Returns a piece with new variables for its stacked literals, and its new takes."""
    takes = list(shape.takes)
    literals = [k for k in stacked if isinstance(takes[k], core.Literal)]
    types = [jax.ShapeDtypeStruct((), takes[k].aval.dtype) for k in literals]
    for k, name in zip(literals, jax.make_jaxpr(tuple)(types).jaxpr.invars, strict=True):
        takes[k] = name
    # A literal may be one object in several places, and stacked in some of them.
    old = shape.takes
    places = iter([takes[k] for k, x in enumerate(old) if isinstance(x, core.Literal)])
    piece = [
        eqn.replace(invars=[next(places) if isinstance(x, core.Literal) else x for x in eqn.invars])
        for eqn in shape.equations
    ]
    return piece, takes


def _function(
    traced: traces.Traced, piece: traces.Piece, takes: Sequence[Any], gives: Sequence[Any]
) -> Callable:
    """Returns a piece as a function, with convolutions for loops, see cls.nn.cpu.looped."""

    def compute(*inputs):
        values = dict(zip(takes, inputs, strict=True))
        used = {*traces.read(piece), *gives}
        for plain, equations in itertools.groupby(piece, lambda eqn: not _is_conv(eqn)):
            equations = list(equations)
            if plain:
                values.update(traced.evaluate(equations, values, used))
                continue
            for eqn in equations:
                images, kernel = (values[x] for x in eqn.invars)
                values[eqn.outvars[0]] = looped.conv(images, kernel, eqn.params['padding'])
        return [values[x] for x in gives]

    return compute


def _is_conv(eqn: core.JaxprEqn) -> bool:
    """Whether an operation is a convolution of cls.nn.cpu.looped."""
    if eqn.primitive.name != 'conv_general_dilated':
        return False
    shapes: Any = [x.aval for x in eqn.invars]
    pads = eqn.params['padding']
    if pads is None or shapes[0].shape[3] != shapes[1].shape[2]:  # in groups
        return False
    (other,) = jax.make_jaxpr(lambda x, kernel: xla_conv(x, kernel, (1, 1), pads))(*shapes).eqns
    return _plain(other.params) == _plain(eqn.params)


def _delay(sources: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Returns (output, d) if all pieces from the d-th on read this output of the d-th before."""
    d, (_, output) = next((i, source) for i, source in enumerate(sources) if source)
    expected = [None] * d + [(i - d, output) for i in range(d, len(sources))]
    return (output, d) if list(sources) == expected else None


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, core.Literal) and isinstance(y, core.Literal):
        return bool(np.array_equal(x.val, y.val))
    return x is y

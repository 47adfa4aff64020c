"""A summary of a network by its stages, counted from its trace without any computation.

The network is traced with XLA's operations alone, and each operation belongs to the first stage
whose output depends on it. Stages are those that the network sows; the last row is the classifier.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

from cls.models.registry import abstract_variables, complexity
from cls.nn.cpu.lowering import portable

WHOLE = math.inf  # a receptive field of all positions
_LAYERS = ('conv_general_dilated', 'dot_general')
_INLINED = ('pjit', 'jit', 'closed_call', 'core_call', 'custom_jvp_call', 'custom_vjp_call')
_INLINED += ('custom_vjp_call_jaxpr', 'remat', 'checkpoint', 'remat2', 'custom_lin')


@dataclasses.dataclass(frozen=True)
class Row:
    """A stage of a network.

    Attributes:
      name: the name of the stage.
      shape: of its output for one image, (h, w, C) or (C,).
      params: trainable parameters that are first used in it.
      macs: multiply-adds of its convolutions and matrix products, for one image.
      activations: values that its convolutions and matrix products return, for one image.
      field: the receptive field of a position of the output, in pixels of the input; WHOLE for the
        whole image.
      gated: whether a mean over all positions also scales the output, as in squeeze-and-excitation;
        it does not count in `field`.
    """

    name: str
    shape: tuple[int, ...]
    params: int
    macs: int
    activations: int
    field: float
    gated: bool = False


@dataclasses.dataclass(frozen=True)
class _Reach:
    """The pixels that a value depends on: (size, distance of neighbors), and by gates."""

    field: float
    jump: float
    gated: bool = False


@dataclasses.dataclass(frozen=True)
class _Node:
    """An operation of the flat program."""

    equation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


def summarize(module: nn.Module, size: int, channels: int = 3) -> list[Row]:
    """Returns the stages of a network in the order of their computation.

    Args:
      module: the network.
      size: height and width of its images.
      channels: channels of its images.
    """
    variables = abstract_variables(module, size, channels)
    order: list[str] = []

    def function(variables: Any, images: jax.Array) -> list[Any]:
        result: Any = module.apply(variables, images, train=False, mutable=['intermediates'])
        logits, state = result
        stages = {name: values[-1] for name, values in (state.get('intermediates') or {}).items()}
        order.extend(stages)
        return [*stages.values(), logits]

    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    with portable():
        # A new function: JAX may know the program of the other form.
        traced = jax.make_jaxpr(lambda *args: function(*args))(variables, images)
    order = order[: len(traced.jaxpr.outvars) - 1]
    nodes, inputs, outputs = _flat(traced.jaxpr)
    sizes = dict(zip(inputs, (math.prod(v.aval.shape) for v in traced.jaxpr.invars), strict=True))
    trainable = _trainable(variables, inputs)
    reaches = _reaches(nodes, inputs[-1], size)
    made = {output: node for node in nodes for output in node.outputs}
    rows, seen = [], set()
    for name, output, var in zip((*order, 'logits'), outputs, traced.jaxpr.outvars, strict=True):
        new = _needed(output, made, seen)
        operations = {id(made[v]): made[v] for v in new if v in made}.values()
        used = {v for node in operations for v in node.inputs if v in trainable and v not in seen}
        seen |= new | used
        reach = reaches.get(output, _Reach(WHOLE, 1))
        rows.append(
            Row(
                name,
                tuple(var.aval.shape[1:]),
                sum(sizes[v] for v in used),
                sum(complexity._equation_macs(node.equation) for node in operations),
                sum(_activations(node.equation) for node in operations),
                reach.field,
                reach.gated,
            )
        )
    return rows


def _trainable(variables: Any, inputs: Sequence[Any]) -> set[Any]:
    paths = [path for path, _ in jax.tree.leaves_with_path(variables)]
    return {v for path, v in zip(paths, inputs, strict=False) if path[0].key == 'params'}


def _needed(output: Any, made: dict[Any, _Node], seen: set[Any]) -> set[Any]:
    """Returns the values that an output depends on and that are not seen yet."""
    new, rest = set(), [output]
    while rest:
        value = rest.pop()
        if value in seen or value in new or value not in made:
            continue
        new.add(value)
        rest += made[value].inputs
    return new


def _activations(equation: Any) -> int:
    if equation.primitive.name in _LAYERS:
        return math.prod(equation.outvars[0].aval.shape)
    return 0


# --------------------------------------------------------------------------- the flat program


def _flat(jaxpr: Any) -> tuple[list[_Node], list[Any], list[Any]]:
    """Returns (operations with calls inlined, the inputs, the outputs)."""
    inputs = [object() for _ in jaxpr.invars]
    nodes: list[_Node] = []
    outputs = _inline(jaxpr, inputs, nodes)
    return nodes, inputs, outputs


def _inline(jaxpr: Any, inputs: Sequence[Any], nodes: list[_Node]) -> list[Any]:
    values: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(x: Any) -> Any:
        if not isinstance(x, core.Var):
            return None
        return values.setdefault(x, object())  # a constant

    for equation in jaxpr.eqns:
        inner = _body(equation)
        if inner is not None:
            results = _inline(inner, [read(x) for x in equation.invars], nodes)
            values.update(zip(equation.outvars, results, strict=True))
            continue
        outputs = tuple(object() for _ in equation.outvars)
        values.update(zip(equation.outvars, outputs, strict=True))
        nodes.append(_Node(equation, tuple(map(read, equation.invars)), outputs))
    return [read(x) for x in jaxpr.outvars]


def _body(equation: Any) -> Any:
    """Returns the program that an equation calls once, None for other equations."""
    if equation.primitive.name not in _INLINED:
        return None
    bodies = core.jaxprs_in_params(equation.params)
    body = next(iter(bodies), None)
    same = body is not None and len(body.invars) == len(equation.invars)
    return body if same else None


# --------------------------------------------------------------------------- receptive fields


def _reaches(nodes: Sequence[_Node], images: Any, size: int) -> dict[Any, _Reach]:
    """Returns the reach of every value that depends on the images."""
    reaches = {images: _Reach(1, 1)}
    for node in nodes:
        inputs = [
            (reaches[v], x.aval)
            for v, x in zip(node.inputs, node.equation.invars, strict=True)
            if v in reaches
        ]
        if not inputs:
            continue
        for output, var in zip(node.outputs, node.equation.outvars, strict=True):
            reaches[output] = _reach(node.equation, inputs, var.aval)
    return reaches


def _reach(equation: Any, inputs: Sequence[tuple[_Reach, Any]], result: Any) -> _Reach:
    spatial = [r for r, aval in inputs if r.field != WHOLE]
    gated = any(r.gated for r, _ in inputs)
    if not spatial:
        return _Reach(WHOLE, 1, gated)
    gated |= len(spatial) < len(inputs)
    field, jump = max(r.field for r in spatial), max(r.jump for r in spatial)
    name, params = equation.primitive.name, equation.params
    before = inputs[0][1].shape
    if name == 'conv_general_dilated':
        window = equation.invars[1].aval.shape[params['dimension_numbers'].rhs_spec[2]]
        window = (window - 1) * params['rhs_dilation'][0] + 1
        stride = params['window_strides'][0] / params['lhs_dilation'][0]
        return _Reach(field + (window - 1) * jump, jump * stride, gated)
    if name.startswith('reduce_window'):
        window = (params['window_dimensions'][1] - 1) * params['window_dilation'][1] + 1
        return _Reach(field + (window - 1) * jump, jump * params['window_strides'][1], gated)
    if name == 'slice' and params['strides'] and len(before) == 4:
        return _Reach(field, jump * params['strides'][1], gated)
    if _loses_positions(name, params, before, result.shape):
        return _Reach(WHOLE, 1, gated)
    return _Reach(field, jump, gated)


def _loses_positions(
    name: str, params: Any, before: tuple[int, ...], after: tuple[int, ...]
) -> bool:
    """Whether an operation mixes the positions of a map."""
    if len(before) < 3 or math.prod(before[1:3]) == 1:
        return False
    if name.startswith(('reduce_', 'arg', 'cum')) and 'axes' in params:
        return bool({1, 2} & set(params['axes']))
    if name == 'dot_general':
        (left, right), _ = params['dimension_numbers']
        return bool({1, 2} & {*left}) or len(after) < 3
    return len(after) < 3


def total(rows: Sequence[Row]) -> tuple[int, int, int]:
    """Returns the sums of (parameters, multiply-adds, activations)."""
    return sum(r.params for r in rows), sum(r.macs for r in rows), sum(r.activations for r in rows)


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yields the lines of a table of stages, and of their sums."""
    titles = ('stage', 'output', 'parameters', 'MACs', 'activations', 'receptive field')
    table = [titles, *(cells(row) for row in rows)]
    table.append(('all', '', *(f'{n:,}' for n in total(rows)), ''))
    widths = [max(len(line[i]) for line in table) for i in range(len(titles))]
    for line in table:
        left = [c.ljust(w) for c, w in zip(line[:2], widths[:2], strict=True)]
        right = [c.rjust(w) for c, w in zip(line[2:], widths[2:], strict=True)]
        yield '  '.join([*left, *right]).rstrip()


def cells(row: Row) -> tuple[str, ...]:
    """Returns a row of the table as text."""
    field = 'image' if row.field == WHOLE else f'{row.field:g}'
    shape = ' x '.join(map(str, row.shape))
    numbers = (f'{n:,}' for n in (row.params, row.macs, row.activations))
    return (row.name, shape, *numbers, field + ' *' * row.gated)

"""The inference graph of a model: a flat list of primitives, with its weights as constants.

The program (jaxpr) of a model is traced with XLA's operations alone, by
`cls.nn.cpu.lowering.portable`, and flattened: calls are replaced by their bodies, all that depends
on weights alone is computed, and batch norms are folded into the convolutions and matrix products
before them. A graph can be traced by JAX again (`Graph.run`), and other formats are written from
its nodes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from cls.errors import UserError
from cls.inference.export.constants import bound, computed
from cls.inference.export.fold import folded, scaled_and_shifted
from cls.inference.export.graph import Graph, Node, Operand, Value
from cls.nn import folding
from cls.nn.cpu.lowering import portable
from cls.nn.folding import SCALE_AND_SHIFT

_MAX_UNROLLED = 400  # iterations of a loop


def traced(function: Callable[[Any], Any], images: jax.ShapeDtypeStruct) -> Graph:
    """Returns the folded graph of a function from images to one array.

    Raises UserError for a loop or a branch that depends on the images.

    Args:
      function: for example `model.apply` with its variables and train=False.
      images: the shape and type of its argument; dimensions may be symbolic.
    """

    def marked(images: Any) -> Any:  # a new function: JAX may know the program of the other
        with folding.marked(), portable():
            return function(images)

    closed = jax.make_jaxpr(marked)(images)
    flat = _Flat()
    image = Value(tuple(images.shape), np.dtype(images.dtype))
    (output,) = flat.inline(closed.jaxpr, closed.consts, [image])
    if not isinstance(output, Value):
        raise UserError('the model does not depend on its images: expected one that does.')
    return _pruned(Graph(image, tuple(folded(flat.nodes, output)), output))


class _Flat:
    """The nodes of a program while its calls are inlined and its constants are computed."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._reads: dict[int, np.ndarray] = {}  # id of a JAX array -> the same on the host
        self._held: list[Any] = []  # keeps these ids taken

    def inline(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Operand]) -> list[Operand]:
        """Returns the outputs of a jaxpr, and adds its nodes."""
        values: dict[Any, Operand] = dict(
            zip(jaxpr.constvars, map(self._host, consts), strict=True)
        )
        values.update(zip(jaxpr.invars, inputs, strict=True))

        def read(x: Any) -> Operand:
            return values[x] if isinstance(x, core.Var) else np.asarray(x.val, x.aval.dtype)

        for eqn in jaxpr.eqns:
            results = self._evaluate(eqn, [read(x) for x in eqn.invars])
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def _host(self, array: Any) -> np.ndarray:
        if isinstance(array, np.ndarray):
            return array
        if id(array) not in self._reads:
            self._held.append(array)
            self._reads[id(array)] = np.asarray(array)
        return self._reads[id(array)]

    def _evaluate(self, eqn: Any, inputs: list[Operand]) -> Sequence[Operand]:
        """Returns the results of an equation: computed, inlined, or those of a new node."""
        name, params = eqn.primitive.name, eqn.params
        known = all(isinstance(x, np.ndarray) for x in inputs)
        fixed = all(_is_static(x.aval.shape) for x in eqn.outvars)
        if folding.is_scale_and_shift(eqn) and not known:
            return [self.add(SCALE_AND_SHIFT, inputs, eqn.outvars, {}, scaled_and_shifted)]
        if name == 'cond' and isinstance(inputs[0], np.ndarray):
            branch = params['branches'][int(np.clip(inputs[0], 0, len(params['branches']) - 1))]
            return self.inline(branch.jaxpr, branch.consts, inputs[1:])
        if name == 'scan' and not known:
            return self._unrolled(params, inputs)
        inner = next((params[key] for key in ('jaxpr', 'call_jaxpr') if key in params), None)
        if inner is not None and name != 'scan':
            closed = inner if hasattr(inner, 'consts') else core.ClosedJaxpr(inner, ())
            return self.inline(closed.jaxpr, closed.consts, inputs)
        if known and fixed and name != 'dim_as_value':  # that is a symbolic size
            return computed(eqn, inputs)
        if name in ('stop_gradient', 'copy', 'copy_p', 'optimization_barrier', 'name'):
            return inputs
        if name == 'dynamic_slice' and all(isinstance(x, np.ndarray) for x in inputs[1:]):
            return [self._sliced(inputs, eqn)]
        if name == 'stack':
            return [self._stacked(list(inputs), params['axis'])]
        if name == 'rev' and _is_static(inputs[0].shape[axis] for axis in params['dimensions']):
            x: Any = inputs[0]
            for axis in params['dimensions']:
                x = self._rows(x, axis, np.arange(x.shape[axis])[::-1])
            return [x]
        if name == 'gather' and isinstance(inputs[1], np.ndarray):
            taken = self._taken(inputs[0], inputs[1], params)
            if taken is not None:
                return [taken]
        out = self.add(name, inputs, eqn.outvars, dict(params), bound(eqn))
        return out if isinstance(out, list) else [out]

    def add(self, op: str, inputs: Any, avals: Any, params: Any, compute: Any) -> Any:
        """Returns the result, or the list of results, of a new node."""
        outputs = tuple(Value(tuple(x.aval.shape), np.dtype(x.aval.dtype)) for x in avals)
        self.nodes.append(Node(op, tuple(inputs), outputs, params, compute))
        return outputs[0] if len(outputs) == 1 else list(outputs)

    def _taken(self, x: Any, indices: np.ndarray, params: Any) -> Operand | None:
        """Returns a gather at known places as slices and `take` nodes, one for each axis.

        None for one that does not pick rows of axes, or has indices beyond them.
        """
        numbers, sizes = params['dimension_numbers'], params['slice_sizes']
        collapsed, grid = numbers.collapsed_slice_dims, indices.shape[:-1]
        if indices.ndim == 1:  # one window, as of x[:, 1:]
            first = dict(zip(numbers.start_index_map, indices.tolist(), strict=True))
            return self._window(x, first, params)
        out = (i for i in range(len(x.shape)) if i not in numbers.offset_dims)
        if tuple(out) != collapsed or len(collapsed) != len(grid):
            return None
        if numbers.operand_batching_dims:
            return None
        for i, axis in enumerate(numbers.start_index_map):
            places = indices[..., i]
            if axis in collapsed:
                at = collapsed.index(axis)
                rows = np.moveaxis(places, at, 0).reshape(grid[at], -1)
            else:  # a window of all rows from one place on
                rows = places.reshape(1, -1) + np.arange(sizes[axis])[:, None]
            if (rows != rows[:, :1]).any() or rows.min() < 0 or rows.max() >= x.shape[axis]:
                return None
            x = self._rows(x, axis, rows[:, 0])
        return x

    def _window(self, x: Any, first: dict[int, int], params: Any) -> Operand | None:
        """Returns a part of x that starts at known places, without its collapsed axes."""
        numbers, sizes = params['dimension_numbers'], params['slice_sizes']
        if numbers.offset_dims != tuple(range(len(sizes) - len(numbers.collapsed_slice_dims))):
            return None
        for axis, start in first.items():
            if not 0 <= start <= x.shape[axis] - sizes[axis]:
                return None
            x = self._rows(x, axis, np.arange(start, start + sizes[axis]))
        if not numbers.collapsed_slice_dims:
            return x
        dimensions = numbers.collapsed_slice_dims
        shape = tuple(n for a, n in enumerate(x.shape) if a not in dimensions)
        out, params = Value(shape, x.dtype), {'dimensions': dimensions}
        compute = functools.partial(_squeeze, **params)
        self.nodes.append(Node('squeeze', (x,), (out,), params, compute))
        return out

    def _rows(self, x: Value, axis: int, rows: np.ndarray) -> Value:
        """Returns the result of a new node: rows of an axis."""
        shape = (*x.shape[:axis], len(rows), *x.shape[axis + 1 :])
        out = Value(shape, x.dtype)
        step = int(rows[1] - rows[0]) if len(rows) > 1 else 1
        if step > 0 and (np.diff(rows) == step).all():
            params = {
                'start_indices': tuple(int(rows[0]) if a == axis else 0 for a in range(len(shape))),
                'limit_indices': tuple(
                    int(rows[-1]) + 1 if a == axis else n for a, n in enumerate(x.shape)
                ),
                'strides': tuple(step if a == axis else 1 for a in range(len(shape))),
            }
            compute = functools.partial(_slice, **params)
            self.nodes.append(Node('slice', (x,), (out,), params, compute))
        else:
            params = {'axis': axis, 'rows': rows}
            compute = functools.partial(_take, **params)
            self.nodes.append(Node('take', (x,), (out,), params, compute))
        return out

    def _sliced(self, inputs: Sequence[Any], eqn: Any) -> Operand:
        """Returns a slice at known positions, clamped as `dynamic_slice` does."""
        images, starts = inputs[0], [int(x) for x in inputs[1:]]
        sizes = eqn.params['slice_sizes']
        limits = zip(starts, images.shape, sizes, strict=True)
        first = [0 if n is size or n == size else min(max(s, 0), n - size) for s, n, size in limits]
        last = [start + size for start, size in zip(first, sizes, strict=True)]
        params = {'start_indices': tuple(first), 'limit_indices': tuple(last), 'strides': None}
        compute = functools.partial(_slice, **params)
        return self.add('slice', [images], eqn.outvars, params, compute)

    def _unrolled(self, params: dict[str, Any], inputs: list[Operand]) -> list[Operand]:
        """Returns the results of a loop of known length, whose steps are inlined."""
        length, body = params['length'], params['jaxpr']
        if not isinstance(length, int) or length > _MAX_UNROLLED:
            raise UserError(
                f'the model has a loop of {length} steps: expected at most {_MAX_UNROLLED}; '
                'export it for a smaller input.'
            )
        fixed, carried = params['num_consts'], params['num_carry']
        consts, carry, rows = (
            inputs[:fixed],
            inputs[fixed : fixed + carried],
            inputs[fixed + carried :],
        )
        constant = [x for x in rows if isinstance(x, np.ndarray)]
        if len(constant) < len(rows):
            raise UserError('the model has a loop over its images: expected none in inference.')
        outputs: list[list[Operand]] = []
        order = range(length)
        for step in reversed(order) if params['reverse'] else order:
            results = self.inline(
                body.jaxpr, body.consts, [*consts, *carry, *(np.asarray(x[step]) for x in constant)]
            )
            carry = results[:carried]
            outputs.append(results[carried:])
        if params['reverse']:
            outputs.reverse()
        return [*carry, *(self._stacked(list(column)) for column in zip(*outputs, strict=True))]

    def _stacked(self, parts: list[Operand], axis: int = 0) -> Operand:
        """Returns parts of one shape along a new axis."""
        if all(isinstance(x, np.ndarray) for x in parts):
            return np.stack([np.asarray(x) for x in parts], axis)
        shape = (*parts[0].shape[:axis], 1, *parts[0].shape[axis:])
        old = tuple(i for i in range(len(shape)) if i != axis)
        rows = []
        for part in parts:
            params = {'shape': shape, 'broadcast_dimensions': old}
            out = Value(shape, np.dtype(part.dtype))
            compute = functools.partial(_broadcast, **params)
            self.nodes.append(Node('broadcast_in_dim', (part,), (out,), params, compute))
            rows.append(out)
        out = Value((*shape[:axis], len(parts), *shape[axis + 1 :]), rows[0].dtype)
        params = {'dimension': axis}
        compute = functools.partial(_concatenated, **params)
        self.nodes.append(Node('concatenate', tuple(rows), (out,), params, compute))
        return out


def _is_static(shape: Iterable[Any]) -> bool:
    return all(isinstance(n, int) for n in shape)


def _slice(images: Any, start_indices: Any, limit_indices: Any, strides: Any) -> list[Any]:
    return [jax.lax.slice(images, start_indices, limit_indices, strides)]


def _take(x: Any, axis: int, rows: np.ndarray) -> list[Any]:
    return [jnp.take(x, rows, axis, mode='clip')]


def _squeeze(x: Any, dimensions: Any) -> list[Any]:
    return [jax.lax.squeeze(x, dimensions)]


def _broadcast(x: Any, shape: Any, broadcast_dimensions: Any) -> list[Any]:
    return [jax.lax.broadcast_in_dim(jnp.asarray(x), shape, broadcast_dimensions)]


def _concatenated(*parts: Any, dimension: int) -> list[Any]:
    return [jax.lax.concatenate(list(map(jnp.asarray, parts)), dimension)]


def _pruned(graph: Graph) -> Graph:
    """Returns a graph without the nodes that its output does not need."""
    needed, nodes = {id(graph.output)}, []
    for node in reversed(graph.nodes):
        if any(id(x) in needed for x in node.outputs):
            needed.update(map(id, node.inputs))
            nodes.append(node)
    return dataclasses.replace(graph, nodes=tuple(reversed(nodes)))

"""Element-wise operations on many small arrays, as operations on one vector.

An optimizer computes the same for each parameter, and a network has hundreds of small ones. On a
CPU each of their shapes is a kernel of its own, that XLA compiles nearly as long as one on images.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from cls.nn.cpu import vectors

# Elements of an array that is joined: each step copies it.
MOST = 2**15
# More arrays in one expression are rather a program than an update rule.
_MOST_INPUTS = 16
_ELEMENTWISE = frozenset(
    [
        *('add', 'add_any', 'sub', 'mul', 'div', 'neg', 'abs', 'sign', 'max', 'min'),
        *('square', 'sqrt', 'rsqrt', 'integer_pow', 'pow', 'exp', 'log', 'tanh'),
    ]
)

# Calls of functions. An update is not differentiated: a derivative of its own is not needed.
_CALLS = ('jit', 'custom_jvp_call', 'custom_vjp_call', 'closed_call')


def joined(function: Callable) -> Callable:
    """Returns a function with the same results that computes on small arrays together.

    Results that are the same element-wise expression of other small float32 arrays, and of the same
    scalars, are computed in one vector. All other operations stay as they are.

    Args:
      function: a function of trees of arrays, traceable by JAX, to be called in a program for one
        CPU device with the extension.
    """

    def together(*args):
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        made = _evaluate(traced.jaxpr, traced.consts, jax.tree.leaves(args), {})
        return jax.tree.unflatten(jax.tree.structure(shapes), _arrays(made))

    return together


@dataclasses.dataclass(frozen=True)
class _Expression:
    """An element-wise expression that is not yet computed.

    Attributes:
      shape: of the result.
      form: what is equal for the same expression of other arrays.
      inputs: the arrays.
      compute: returns the result, given arrays of any one shape in place of the inputs.
    """

    shape: tuple[int, ...]
    form: Any
    inputs: tuple[Any, ...]
    compute: Callable[[Sequence[Any]], Any]


def _evaluate(
    jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any], scalars: dict[Any, Any]
) -> list[Any]:
    """Returns the results of a program, arrays or expressions.

    Args:
      jaxpr: the program.
      consts: its constants.
      args: its arguments.
      scalars: the operations on scalars so far, with their results: optimizers compute the learning
        rate again for each parameter.
    """
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def value(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    eqn: Any
    for eqn in jaxpr.eqns:
        inputs = [value(x) for x in eqn.invars]
        inner = eqn.params.get('call_jaxpr', eqn.params.get('jaxpr'))
        if hasattr(inner, 'consts') and eqn.primitive.name in _CALLS:
            outputs = _evaluate(inner.jaxpr, inner.consts, inputs, scalars)
        elif expression := _expression(eqn, inputs):
            outputs = [expression]
        elif not eqn.effects and not any(x.aval.ndim for x in eqn.invars):
            key = (eqn.primitive, _text(eqn.params), tuple(map(_name, inputs)))
            if key not in scalars:
                scalars[key] = _bound(eqn, inputs), inputs  # kept: their names are their ids
            outputs, _ = scalars[key]
        else:
            inputs = _arrays(inputs)
            known = zip(eqn.invars, inputs, strict=True)
            values.update((x, y) for x, y in known if isinstance(x, core.Var))
            outputs = _bound(eqn, inputs)
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [value(x) for x in jaxpr.outvars]


def _bound(eqn: Any, inputs: Sequence[Any]) -> list[Any]:
    made = eqn.primitive.bind(*inputs, **eqn.params)
    return made if eqn.primitive.multiple_results else [made]


def _text(params: Any) -> Any:
    return tuple(sorted((name, str(x)) for name, x in params.items()))


def _expression(eqn: Any, inputs: Sequence[Any]) -> _Expression | None:
    """Returns the result of an operation on small arrays as an expression, None for others."""
    (out,) = (x.aval for x in eqn.outvars) if len(eqn.outvars) == 1 else (None,)
    name, primitive = eqn.primitive.name, eqn.primitive
    if out is None or not out.ndim or out.dtype != jnp.float32 or not 0 < out.size <= MOST:
        return None
    if name == 'broadcast_in_dim' and not eqn.invars[0].aval.ndim:
        # Of any shape: operations take scalars as they are.
        return _Expression(out.shape, ('scalar', _name(inputs[0])), (), lambda _: inputs[0])
    if name not in _ELEMENTWISE:
        return None
    parts = [part for x in inputs if (part := _lifted(x, out.shape))]
    if len(parts) < len(inputs) or sum(len(x.inputs) for x in parts) > _MOST_INPUTS:
        return None

    def compute(arrays):
        arrays, operands = list(arrays), []
        for part in parts:
            operands.append(part.compute([arrays.pop(0) for _ in part.inputs]))
        return primitive.bind(*_same_shape(operands), **eqn.params)

    form = (name, _text(eqn.params), tuple(x.form for x in parts))
    return _Expression(out.shape, form, tuple(i for x in parts for i in x.inputs), compute)


def _lifted(x: Any, shape: tuple[int, ...]) -> _Expression | None:
    """Returns an operand as an expression, None if it is an array of another shape or type."""
    if isinstance(x, _Expression):
        return x if x.shape == shape else None
    if not jnp.ndim(x):
        return _Expression(shape, ('scalar', _name(x)), (), lambda _: x)
    if jnp.shape(x) != shape or x.dtype != jnp.float32:
        return None
    return _Expression(shape, 'array', (x,), lambda arrays: arrays[0])


def _name(scalar: Any) -> Any:
    """Returns what is equal for the same scalar: numbers by value, traced ones by identity."""
    if isinstance(scalar, int | float | np.generic | np.ndarray):
        return str(jnp.result_type(scalar)), repr(np.asarray(scalar).item())  # -0.0 is not 0.0
    return id(scalar)


def _same_shape(operands: Sequence[Any]) -> list[Any]:
    shape = max((jnp.shape(x) for x in operands), key=len)
    return [x if jnp.shape(x) == shape else jnp.broadcast_to(x, shape) for x in operands]


def _arrays(values: Sequence[Any]) -> list[Any]:
    """Returns values with their expressions computed, those of a form together."""
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(values):
        if isinstance(x, _Expression):
            groups.setdefault(x.form, []).append(i)
    results, known = list(values), {}

    def side_by_side(arrays):
        key = tuple(map(id, arrays))
        if key not in known:
            known[key] = vectors.join(arrays)
        return known[key]

    for indices in groups.values():
        same = [values[i] for i in indices]
        shapes = [x.shape for x in same]
        if len(set(shapes)) == 1 or not same[0].inputs:  # no kernel is saved
            parts = [jnp.broadcast_to(x.compute(x.inputs), x.shape) for x in same]
        else:
            places = zip(*(x.inputs for x in same), strict=True)
            together = same[0].compute([side_by_side(arrays) for arrays in places])
            parts = vectors.split(together, shapes)
        for i, part in zip(indices, parts, strict=True):
            results[i] = part
    return results

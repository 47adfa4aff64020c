"""Equations of a jaxpr that depend on constants alone."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

# Computed by NumPy: XLA would compile each of these for each shape of a network.
_BY_NUMPY: dict[str, Callable[..., Any]] = {
    'add': lambda a, b: a + b,
    'sub': lambda a, b: a - b,
    'mul': lambda a, b: a * b,
    'neg': lambda a: -a,
    'max': np.maximum,
    'min': np.minimum,
    'sqrt': np.sqrt,
    'rsqrt': lambda a: 1 / np.sqrt(a),
    'convert_element_type': lambda a, **_: a,
    'reshape': lambda a, new_sizes, **_: a.reshape(new_sizes),
    'squeeze': lambda a, dimensions: np.squeeze(a, dimensions),
    'transpose': lambda a, permutation: a.transpose(permutation),
    'concatenate': lambda *parts, dimension: np.concatenate(parts, dimension),
    'iota': lambda dtype, shape, dimension, **_: np.broadcast_to(
        np.arange(shape[dimension]).reshape(
            [-1 if i == dimension else 1 for i in range(len(shape))]
        ),
        shape,
    ),
    'broadcast_in_dim': lambda a, shape, broadcast_dimensions, **_: np.broadcast_to(
        a.reshape(
            [
                a.shape[broadcast_dimensions.index(i)] if i in broadcast_dimensions else 1
                for i in range(len(shape))
            ]
        ),
        shape,
    ),
}
_WITHOUT_PARAMS = ('add', 'sub', 'mul', 'neg', 'max', 'min', 'sqrt', 'rsqrt')


def computed(eqn: Any, inputs: Sequence[Any]) -> list[np.ndarray]:
    """Returns the results of an equation on constants."""
    name = eqn.primitive.name
    if name in _BY_NUMPY:
        params = {} if name in _WITHOUT_PARAMS else eqn.params
        result = _BY_NUMPY[name](*inputs, **params)
        return [np.asarray(result, eqn.outvars[0].aval.dtype)]
    return [np.asarray(x) for x in bound(eqn)(*inputs)]


def bound(eqn: Any) -> Callable[..., list[Any]]:
    """Returns the function of an equation, from arrays to the list of results."""
    several = eqn.primitive.multiple_results

    def compute(*inputs: Any) -> list[Any]:
        result = eqn.primitive.bind(*map(jnp.asarray, inputs), **eqn.params)
        return list(result) if several else [result]

    return compute

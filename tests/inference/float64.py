"""The outputs of a program in double precision: how much of a difference is rounding."""

from typing import Any

import jax
import numpy as np
from jax.extend import core

from cls.nn.cpu.lowering import portable


def outputs(compute, images):
    """Returns the result of a float32 function with each of its operations in float64.

    The program is that of the function without forms for a processor, and its operations are run
    one after another: nothing of it is folded or fused.

    Args:
      compute: a function from images to one array.
      images: its float32 argument.
    """

    def plain(images):
        with portable():
            return compute(images)

    closed = jax.make_jaxpr(plain)(images)
    with jax.enable_x64(True):
        (result,) = _run(closed.jaxpr, closed.consts, [_wide(images)])
    return np.asarray(result)


def _run(jaxpr: Any, consts: Any, inputs: Any) -> list[Any]:
    values = dict(zip(jaxpr.constvars, map(_wide, consts), strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(x: Any) -> Any:
        return values[x] if isinstance(x, core.Var) else _wide(np.asarray(x.val, x.aval.dtype))

    for number, eqn in enumerate(jaxpr.eqns):
        arguments = [read(x) for x in eqn.invars]
        inner = next((eqn.params[k] for k in ('jaxpr', 'call_jaxpr') if k in eqn.params), None)
        if inner is not None:
            closed = inner if hasattr(inner, 'consts') else core.ClosedJaxpr(inner, ())
            results = _run(closed.jaxpr, closed.consts, arguments)
        else:
            params = {key: _wide_type(value) for key, value in eqn.params.items()}
            results = eqn.primitive.bind(*arguments, **params)
            results = results if eqn.primitive.multiple_results else [results]
        values.update(zip(eqn.outvars, results, strict=True))
        if number % 100 == 0:
            jax.block_until_ready(results)  # bounds the memory of what waits
    return [read(x) for x in jaxpr.outvars]


def _wide(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _wide_type(value: Any) -> Any:
    """Returns a parameter of a primitive, float64 for the type float32."""
    is_type = isinstance(value, np.dtype) or (isinstance(value, type) and value is np.float32)
    return np.dtype(np.float64) if is_type and np.dtype(value) == np.float32 else value

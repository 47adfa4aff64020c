"""Inference with batch norms folded into convolutions.

In inference a batch norm is a factor and a shift for each channel. Both go into the convolution
before it, and with the extension for CPUs (`cls.nn.cpu.native`) an addition and an activation after
the norm do too, so that results are written to memory once. The extension scales kernels as it
reorders them: a program has no scaled copies. Results agree up to rounding.

The unchanged network is traced, and its program (jaxpr) is evaluated with these patterns replaced.
Only float32 is folded: in bfloat16 the product of a kernel and a factor would be rounded.
"""

import collections
import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from cls.nn.cpu import native

_tracing = contextvars.ContextVar('tracing', default=False)


def is_tracing() -> bool:
    """Returns whether the caller is traced to be folded: norms then call `scale_and_shift`."""
    return _tracing.get()


@contextlib.contextmanager
def marked() -> Iterator[None]:
    """A context in which norms and biases are traced as `scale_and_shift`."""
    token = _tracing.set(True)
    try:
        yield
    finally:
        _tracing.reset(token)


@jax.jit
def scale_and_shift(x: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    """Returns x * factor + shift, of the type of x (..., C), for factor (C,) and shift (C,)."""
    return (x * factor + shift).astype(x.dtype)


SCALE_AND_SHIFT: str = getattr(scale_and_shift, '__name__')  # noqa: B009  jit keeps it


def folded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns an inference function with its norms folded, for programs for one CPU device.

    Elsewhere, and without the extension, it is the function itself.

    Args:
      function: computes from arrays and trees of them, for example `model.apply` with train=False.
    """

    def compute(*args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        if not any(native.usable(x) and x.dtype == jnp.float32 for x in leaves):
            return function(*args)

        def new(*args: Any) -> Any:  # JAX may know the program of the other function
            with marked():
                return function(*args)

        closed, shapes = jax.make_jaxpr(new, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(shapes), _evaluated(closed, leaves))

    return compute


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A convolution that is not computed yet: what follows may still go into it."""

    geometry: native.Geometry
    images: jax.Array
    kernel: jax.Array
    factor: jax.Array | None = None
    bias: jax.Array | None = None
    added: jax.Array | None = None
    activation: str = ''

    def value(self) -> jax.Array:
        if self.factor is None or self.bias is None:
            return native.jitted_conv(self.geometry)(self.images, self.kernel)
        scale = self.factor, self.bias
        return native.inference_conv(
            self.images, self.kernel, *scale, self.added, self.activation, self.geometry
        )

    def can_add(self) -> bool:
        """Returns whether oneDNN adds an array as fast; with AVX2 the others take slow loops."""
        *window, inputs, outputs = self.kernel.shape
        if window == [1, 1]:
            return True
        groups = self.geometry.groups
        return inputs >= 8 if groups == 1 else inputs == 1 and outputs == groups


def _evaluated(closed: core.ClosedJaxpr, leaves: list[Any]) -> list[Any]:
    """Returns the results of a program, with its patterns replaced."""
    jaxpr = closed.jaxpr
    uses = collections.Counter(x for eqn in jaxpr.eqns for x in eqn.invars if _is_var(x))
    uses.update(x for x in jaxpr.outvars if _is_var(x))
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *leaves), strict=True))

    def read(x: Any) -> Any:
        value = values[x] if _is_var(x) else x.val
        return value.value() if isinstance(value, _Pending) else value

    def pending(x: Any) -> _Pending | None:
        value = values.get(x) if _is_var(x) else None
        return value if isinstance(value, _Pending) else None

    for eqn in jaxpr.eqns:
        result = _extended(eqn, pending, read)
        if result is not None:
            (out,) = eqn.outvars
            values[out] = result if uses[out] == 1 else result.value()
            continue
        takes = list(dict.fromkeys(x for x in eqn.invars if _is_var(x)))
        part = jaxpr.replace(constvars=(), invars=takes, outvars=eqn.outvars, eqns=[eqn])
        compute = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))
        values.update(zip(eqn.outvars, compute(*map(read, takes)), strict=True))
    return [read(x) for x in jaxpr.outvars]


def _extended(eqn: Any, pending: Callable, read: Callable) -> _Pending | None:
    """Returns the pending convolution that an equation starts or continues, None if it does not."""
    name = eqn.params.get('name') or _inner_name(eqn)
    geometry = native.geometry_of(name)
    if geometry:
        images, kernel = map(read, eqn.invars)
        return _Pending(geometry, images, kernel) if images.dtype == jnp.float32 else None
    before = next(filter(None, map(pending, reversed(eqn.invars))), None)
    if before is None or before.activation:
        return None
    if any(x.aval.dtype != jnp.float32 for x in (*eqn.invars, *eqn.outvars)):
        return None
    if is_scale_and_shift(eqn) and before.added is None and pending(eqn.invars[0]) is before:
        return _scaled(before, *map(read, eqn.invars[1:]))
    if name in native.ACTIVATIONS and before.bias is not None and _calls(eqn, name):
        return dataclasses.replace(before, activation=name)
    if eqn.primitive.name == 'add' and before.bias is not None and before.added is None:
        if not before.can_add():
            return None
        others = [x for x in eqn.invars if pending(x) is not before]
        if len(others) == 1 and others[0].aval.shape == eqn.outvars[0].aval.shape:
            return dataclasses.replace(before, added=read(others[0]))
    return None


def is_scale_and_shift(eqn: Any) -> bool:
    """Returns whether an equation of a program is a call of `scale_and_shift`."""
    return eqn.params.get('name') == SCALE_AND_SHIFT and _calls(eqn, SCALE_AND_SHIFT)


def _calls(eqn: Any, name: str) -> bool:
    """Returns whether an equation computes a known function: a model may have its own `relu`."""
    inner = eqn.params.get('call_jaxpr', eqn.params.get('jaxpr'))
    arguments = tuple((x.aval.shape, x.aval.dtype) for x in eqn.invars)
    return not getattr(inner, 'consts', ()) and str(inner) == _program(name, arguments)


@functools.cache
def _program(name: str, arguments: tuple[Any, ...]) -> str:
    """Returns the program of a known function for arguments of (shape, type), as text."""
    function: Any = scale_and_shift if name == SCALE_AND_SHIFT else getattr(jax.nn, name)
    shapes = (jax.ShapeDtypeStruct(*argument) for argument in arguments)
    try:
        (eqn,) = jax.make_jaxpr(lambda *args: function(*args))(*shapes).eqns
    except TypeError:  # another number of arguments
        return ''
    return str(eqn.params.get('call_jaxpr', eqn.params.get('jaxpr')))


def _scaled(before: _Pending, factor: jax.Array, shift: jax.Array) -> _Pending:
    if before.factor is None or before.bias is None:
        return dataclasses.replace(before, factor=factor, bias=shift)
    scaled, bias = before.factor * factor, before.bias * factor + shift
    return dataclasses.replace(before, factor=scaled, bias=bias)


def _inner_name(eqn: Any) -> str:
    """Returns the name of the function that a custom derivative is of; '' for other equations."""
    inner = eqn.params.get('call_jaxpr')
    equations = inner.jaxpr.eqns if hasattr(inner, 'jaxpr') else ()
    return equations[0].params.get('name', '') if len(equations) == 1 else ''


def _is_var(x: Any) -> bool:
    return isinstance(x, core.Var)

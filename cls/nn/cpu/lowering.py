"""The choice of a form by platform, and XLA's own convolution and pools."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')

_portable = contextvars.ContextVar('portable', default=False)
_for_cpu = contextvars.ContextVar('for_cpu', default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """A context in which layers are traced as XLA's operations, the same for every platform.

    The number of images may be symbolic (`jax.export.symbolic_shape`), and their height and width
    too where a layer does not depend on them.
    """
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def is_portable() -> bool:
    """Returns whether the caller is traced within `portable`."""
    return _portable.get()


@contextlib.contextmanager
def for_cpu() -> Iterator[None]:
    """A context for tracing programs for CPU alone: of each choice only that form is traced.

    `cls benchmark start` measures tracing as a part of the compilation.
    """
    token = _for_cpu.set(True)
    try:
        yield
    finally:
        _for_cpu.reset(token)


def is_for_cpu() -> bool:
    """Returns whether the caller is traced within `for_cpu`."""
    return _for_cpu.get()


def jitted(function: Callable, **options: Any) -> Callable:
    """Returns `jax.jit` of a function that chooses a form, with traces of its own in each context.

    A layer that is jitted is traced only once for each shape; deep networks repeat shapes.
    """

    def new() -> Callable:  # traces are kept by function
        @functools.wraps(function)
        def again(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return jax.jit(again, **options)

    anywhere, on_cpu, plain = new(), new(), new()

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        chosen = plain if _portable.get() else on_cpu if _for_cpu.get() else anywhere
        return chosen(*args, **kwargs)

    return call


def choose(*args: Any, default: Callable, **forms: Callable) -> Any:
    """Returns the result of the form for the platform of the program, as platform_dependent."""
    if _for_cpu.get():
        return forms.get('cpu', default)(*args)
    return lax.platform_dependent(*args, default=default, **forms)


def by_platform(cpu: Callable, elsewhere: Callable, *args: jax.Array) -> Any:
    """Returns `cpu(*args)` in programs for CPU and `elsewhere(*args)` in all others.

    A program contains only its platform's form. The form for CPU computes in float32 or wider, as
    XLA accumulates a convolution of narrower types; its results are cast to the type of the first
    argument.
    """
    dtype = args[0].dtype

    def wide(*args):
        out = cpu(*(x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in args))
        return jax.tree.map(lambda x: x.astype(dtype), out)

    return choose(*args, cpu=wide, default=elsewhere)


def xla_conv(images, kernel, strides, pads, dilation=(1, 1), groups=1):
    """Returns XLA's convolution, see `cls.nn.cpu.conv.conv`."""
    return lax.conv_general_dilated(
        images,
        kernel,
        strides,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
    )


def xla_max_pool(images, window, strides, pads):
    """Returns XLA's maxima over windows, see `cls.nn.cpu.pool.max_pool`."""
    return _reduce(images, -jnp.inf, lax.max, window, strides, pads)


def xla_sum_pool(images, window, strides, pads):
    """Returns XLA's sums over windows, see `cls.nn.cpu.pool.sum_pool`."""
    return _reduce(images, 0.0, lax.add, window, strides, pads)


def _reduce(images, start, reduce, window, strides, pads):
    return lax.reduce_window(
        images, start, reduce, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    )

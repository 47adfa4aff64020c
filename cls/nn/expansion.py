"""A 1x1 convolution to more channels and its batch norm in one, for training in bfloat16 on TPU.

In a bottleneck block the result x W of the last convolution has four times the channels of its
input x, and the bandwidth of the memory limits the step. Plainly, the result is written for its
moments, read for the norm, and read three times in the backward pass. All of this follows from x:

* The moments of x W are those of x, times W: the mean is E[x] W, and the variances are the diagonal
  of W' cov(x) W. So the convolution can write the normalized result at once.
* The gradient of a batch norm with respect to its input is d f + (x W - m) s + l, for the gradient
  d of its output, the mean m and vectors f, s and l. In its product with W', and with x, the part
  with x W becomes x (W diag(s) W') and cov(x) W diag(s).

So x W is neither written nor kept for the backward pass. `cls compile-for` shows the difference.

Within `tracked`, `cls.nn.conv` notes the inputs of such convolutions, and `cls.nn.norm` looks them
up: networks need no code for this. The convolution itself is unused then, and not compiled.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cls.nn import by_group
from cls.nn.cpu.lowering import DIMENSIONS

# Channels of the result for one of the input; with fewer, the matrices are as large as the kernel.
LEAST_RATIO = 2


class Source(NamedTuple):
    """The inputs of a convolution, and the devices that have their parts of the examples."""

    images: jax.Array  # (N, H, W, I)
    kernel: jax.Array  # (I, O), of the same type
    mesh: Mesh


class _Trace(NamedTuple):
    """The devices of a program that is traced, and its convolutions by the identity of results."""

    mesh: Mesh
    noted: dict[int, tuple[jax.Array, Source]]


_trace = contextvars.ContextVar[_Trace | None]('trace', default=None)


@contextlib.contextmanager
def tracked(mesh: Mesh | None) -> Iterator[None]:
    """A context in which norms know their convolutions, for programs on a mesh; None: it has none.

    The examples of a batch are distributed over all axes of the mesh.
    """
    token = _trace.set(_Trace(mesh, {}) if mesh else None)
    try:
        yield
    finally:
        _trace.reset(token)


def note(
    out: jax.Array,
    images: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    pads: tuple[tuple[int, int], ...],
) -> None:
    """Notes that `out` is the convolution of images with a kernel, if a norm can be combined.

    Args:
      out: (N, H', W', O).
      images: (N, H, W, I).
      kernel: (h, w, I / groups, O).
      strides: strides in height and width.
      pads: ((top, bottom), (left, right)) in pixels.
    """
    trace = _trace.get()
    if (
        trace
        and out.dtype == jnp.bfloat16
        and kernel.shape[:3] == (1, 1, images.shape[3])
        and kernel.shape[3] >= LEAST_RATIO * kernel.shape[2]
        and strides == (1, 1)
        and pads == ((0, 0), (0, 0))
    ):
        trace.noted[id(out)] = out, Source(images, kernel[0, 0], trace.mesh)


def source(out: jax.Array, groups: int) -> Source | None:
    """Returns the inputs of the convolution with the result `out`, for `normalized` by groups.

    Returns None if they were not noted, or if devices have several groups: separate products of
    the parts of a batch access more memory than they save.
    """
    trace = _trace.get()
    if not trace or id(out) not in trace.noted or groups not in (1, trace.mesh.size):
        return None
    return trace.noted[id(out)][1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def normalized(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    groups: int,
    mesh: Mesh,
    epsilon: float,
    dtype: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a convolution normalized by its moments over groups of examples, and the moments.

    The error of the variance is less than that of a variance of the result rounded to bfloat16.

    Args:
      x: (N, H, W, I).
      kernel: W, (I, O), of the same type.
      scale: (O,).
      bias: (O,).
      groups: number G of groups of consecutive examples, 1 or one for each device.
      mesh: the devices.
      epsilon: added to the variance.
      dtype: of the output.

    Returns:
      (N, H, W, O) of `dtype`; means and (biased) variances (G, O), float32.
    """
    return _forward(x, kernel, scale, bias, groups, mesh, epsilon, dtype)[0]


# Jitted separately, a layer is traced only once for each shape; deep networks repeat shapes.
@functools.partial(jax.jit, static_argnames=('groups', 'mesh', 'epsilon', 'dtype'))
def _forward(x, kernel, scale, bias, groups, mesh, epsilon, dtype):
    count, wide = by_group.count(x, groups), kernel.astype(jnp.float32)
    # Moments are about a shift near the mean, as in cls.nn.norm: the mean of a row of each image.
    # What the backward pass takes from x is linear in it, and loses no digits without a shift.
    middle = x.shape[1] // 2
    shift = _means(x[:, middle : middle + 1], groups, mesh).astype(x.dtype)
    moved = x - by_group.spread(shift, x)
    offset = _means(moved, groups, mesh)
    cov = _sums_of_products(moved, moved, groups, mesh) / count
    cov -= offset[:, :, None] * offset[:, None]
    center = shift.astype(jnp.float32) + offset
    mean = _exact(center, wide)
    var = jnp.maximum(jnp.sum(_exact(cov, wide) * wide, 1), 0)
    factor = lax.rsqrt(var + epsilon) * scale
    out = _product(x, kernel).astype(jnp.float32)
    out = (out - by_group.spread(mean, out)) * by_group.spread(factor, out) + bias
    return (out.astype(dtype), mean, var), (x, kernel, scale, center, cov, mean, var)


@functools.partial(jax.jit, static_argnames=('mesh', 'epsilon'))
def _backward(x, kernel, scale, center, cov, mean, var, dout, dmean, dvar, mesh, epsilon):
    groups, wide = len(mean), kernel.astype(jnp.float32)
    count = by_group.count(x, groups)
    inverse = lax.rsqrt(var + epsilon)
    factor = inverse * scale
    products = _sums_of_products(x, dout, groups, mesh)
    first = by_group.sums(dout.astype(jnp.float32), groups)
    second = jnp.sum(products * wide, 1) - mean * first  # the sums of dout * (x W - mean)
    level = (dmean - factor * first) / count
    slope = (2 * dvar - factor * jnp.square(inverse) * second) / count

    scaled = (dout.astype(jnp.float32) * by_group.spread(factor, dout)).astype(dout.dtype)
    back = _exact(wide * slope[:, None], wide.T).astype(x.dtype)
    dx = _product(scaled, kernel.T).astype(jnp.float32)
    dx += _products(x, back, mesh).astype(jnp.float32)
    dx += by_group.spread(_exact(level - slope * mean, wide.T), x)

    dkernel = products * factor[:, None] + count * _exact(cov, wide) * slope[:, None]
    dkernel += center[:, :, None] * (count * level)[:, None]
    dkernel = jnp.sum(dkernel, 0).astype(kernel.dtype)
    return dx.astype(x.dtype), dkernel, jnp.sum(second * inverse, 0), jnp.sum(first, 0)


def _normalized_backward(groups, mesh, epsilon, dtype, residuals, grads):
    return _backward(*residuals, *grads, mesh, epsilon)


normalized.defvjp(_forward, _normalized_backward)


def _product(x, matrix):
    """Returns x @ matrix, as a convolution: into these the TPU's compiler fuses what is around."""
    return lax.conv_general_dilated(
        x, matrix[None, None], (1, 1), 'VALID', dimension_numbers=DIMENSIONS
    )


def _products(x, matrices, mesh):
    """Returns x @ matrices (G, I, O), each for one of the groups of examples."""
    if len(matrices) == 1:
        return _product(x, matrices[0])
    return _by_device(lambda x, matrices: _product(x, matrices[0]), mesh)(x, matrices)


def _sums_of_products(x, y, groups, mesh):
    """Returns the sums (G, I, O) of x y' over the examples and pixels of groups, float32."""

    def total(x, y):
        wide: Any = jnp.float32
        sums = lax.conv_general_dilated(
            x,
            y,
            (1, 1),
            'VALID',
            dimension_numbers=('CHWN', 'IHWO', 'NHWC'),
            preferred_element_type=wide,
        )
        return sums[None, :, 0, 0]

    return total(x, y) if groups == 1 else _by_device(total, mesh)(x, y)


def _means(x, groups, mesh):
    """Returns the means (G, I) over the examples and pixels of groups, float32."""
    # As a product: XLA fuses what makes x into it, and for a sum would write x first.
    ones = jnp.ones((*x.shape[:3], 1), x.dtype)
    return _sums_of_products(x, ones, groups, mesh)[:, :, 0] / by_group.count(x, groups)


def _by_device(function: Callable, mesh: Mesh) -> Callable:
    """Returns a function of the examples, or the group, of each device."""
    spec = P(mesh.axis_names)
    return jax.shard_map(function, mesh=mesh, in_specs=(spec, spec), out_specs=spec)


def _exact(x, y):
    """Returns x @ y without rounding to bfloat16, as a TPU does by default."""
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)

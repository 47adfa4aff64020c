"""Convolution, pooling and their padding conventions: the one place that calls XLA's convolution.

All images are NHWC and all kernels HWIO. Padding is named by the convention it comes from, because
two frameworks that both say 'same' pad differently as soon as a stride is involved:

* `None`: symmetric, `dilation * (k - 1) // 2` zeros at each side (PyTorch, Caffe);
* `'SAME'`: TensorFlow's; the output has `ceil(n / stride)` pixels, an odd zero goes to the end;
* `'VALID'`: none;
* an integer, a pair (height, width), or two (before, after) pairs: as stated.

XLA's CPU backend runs depthwise and grouped convolutions, and any whose output is smaller than its
window, one to two orders of magnitude slower than need be, and the gradients of 1x1 convolutions
several times slower than a matrix product. `conv` therefore lowers these forms differently on CPU,
with the same result and gradients; programs for TPU and GPU hold XLA's convolution, whichever
machine they are compiled on.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cls.nn import init
from cls.nn.cpu import compact

Size = int | tuple[int, int]
Padding = None | str | int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]
Pads = tuple[tuple[int, int], tuple[int, int]]

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def pair(size: Size) -> tuple[int, int]:
    """Returns (height, width) of a size given as one number or two."""
    return (size, size) if isinstance(size, int) else tuple(size)


def explicit_padding(
    padding: Padding,
    size: Sequence[int],
    window: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> Pads:
    """Returns ((top, bottom), (left, right)) for a padding convention (see the module).

    Args:
      padding: the convention.
      size: height and width of the input.
      window: height and width of the kernel or pooling window.
      strides: in height and width.
      dilation: in height and width.
    """
    extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True))
    if padding is None:
        return tuple(((e - 1) // 2, (e - 1) // 2) for e in extent)
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(size, extent, strides, padding))
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    height, width = padding
    return (
        (height, height) if isinstance(height, int) else tuple(height),
        (width, width) if isinstance(width, int) else tuple(width),
    )


def conv(
    images: jax.Array,
    kernel: jax.Array,
    *,
    strides: Size = 1,
    padding: Padding = None,
    groups: int = 1,
    dilation: Size = 1,
) -> jax.Array:
    """Convolves (N, H, W, I) images with an (h, w, I / groups, O) kernel into (N, H', W', O)."""
    strides, dilation = pair(strides), pair(dilation)
    channels, window = images.shape[-1], kernel.shape[:2]
    pads = explicit_padding(padding, images.shape[1:3], window, strides, dilation)
    if init.only_shapes():
        return _xla_conv(images, kernel, strides, pads, dilation, groups)
    size = _output_size(images, window, strides, pads, dilation)
    depthwise = groups == channels == kernel.shape[-1] and channels > 1
    small = groups == 1 and (size[0] < window[0] or size[1] < window[1])
    if (depthwise or small) and compact.fits(images.shape[1:3], size):
        return compact.conv(images, kernel, tuple(size), strides, pads, dilation)
    if depthwise:
        return _depthwise_once(images, kernel, strides, pads, dilation)
    if window == (1, 1) and groups == 1 and pads == ((0, 0), (0, 0)):
        return _pointwise_once(images, kernel, strides)
    if small:
        return _small_once(images, kernel, strides, pads, dilation)
    if groups > 1:
        return _grouped_once(images, kernel, strides, pads, dilation, groups)
    return _xla_conv(images, kernel, strides, pads, dilation)


def _xla_conv(images, kernel, strides, pads, dilation=(1, 1), groups=1):
    return lax.conv_general_dilated(
        images,
        kernel,
        strides,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
    )


def by_platform(cpu: Callable, elsewhere: Callable, *args: jax.Array) -> Any:
    """Traces both functions; the program for a platform holds only its own.

    The CPU's computes in float32 at least, as a convolution's sums are kept, whatever the type.
    """
    dtype = args[0].dtype

    def wide(*args):
        out = cpu(*(x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in args))
        return jax.tree.map(lambda x: x.astype(dtype), out)

    return lax.platform_dependent(*args, cpu=wide, default=elsewhere)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise(images, kernel, strides):
    """1x1 convolution without padding; on CPU a matrix product."""

    def product(images, kernel):
        return _subsample(images, strides) @ kernel[0, 0]

    def xla(images, kernel):
        return _xla_conv(images, kernel, strides, ((0, 0), (0, 0)))

    return by_platform(product, xla, images, kernel)


def _subsample(images, strides):
    return images if strides == (1, 1) else images[:, :: strides[0], :: strides[1]]


def _pointwise_forward(images, kernel, strides):
    return _pointwise(images, kernel, strides), (images, kernel)


def _pointwise_backward(strides, residuals, grad):
    def products(images, kernel, grad):
        seen, undo = jax.vjp(lambda images: _subsample(images, strides), images)
        (d_images,) = undo(grad @ kernel[0, 0].T)
        d_kernel = jnp.einsum('nhwi,nhwo->io', seen, grad)
        return d_images, d_kernel[None, None]

    def xla(images, kernel, grad):
        forward = functools.partial(_xla_conv, strides=strides, pads=((0, 0), (0, 0)))
        return jax.vjp(forward, images, kernel)[1](grad)

    return by_platform(products, xla, *residuals, grad)


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)
# Jitted on its own, a layer of a shape seen before is not traced again; deep nets repeat theirs.
_pointwise_once = jax.jit(_pointwise, static_argnums=(2,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _small(images, kernel, strides, pads, dilation):
    """Convolution with few output pixels; on CPU a sum of matrix products, one for each tap."""
    products = functools.partial(_products, strides=strides, pads=pads, dilation=dilation)
    xla = functools.partial(_xla_conv, strides=strides, pads=pads, dilation=dilation)
    return by_platform(products, xla, images, kernel)


def _products(images, kernel, strides, pads, dilation):
    size = _output_size(images, kernel.shape[:2], strides, pads, dilation)
    total = jnp.zeros((len(images), *size, kernel.shape[-1]), images.dtype)
    for i, j, seen in _taps_of(images, kernel.shape[:2], strides, pads, dilation):
        total = total + seen @ kernel[i, j]
    return total


def _taps_of(images, window, strides, pads, dilation):
    """Yields (row, column, what it sees: (N, H', W', C)) of each tap that sees any of the image."""
    size = _output_size(images, window, strides, pads, dilation)
    padded = pad_images(images, pads)
    for i, j in np.ndindex(window):
        corner = i * dilation[0], j * dilation[1]
        axes = zip(corner, size, strides, pads, images.shape[1:3], strict=True)
        if all(_sees_image(*axis) for axis in axes):
            yield i, j, take_window(padded, *corner, size, strides)


def _sees_image(first, size, stride, pad, length):
    """Whether a tap sees anything but padding, along one axis."""
    return any(0 <= first + n * stride - pad[0] < length for n in range(size))


def _small_forward(images, kernel, strides, pads, dilation):
    return _small(images, kernel, strides, pads, dilation), (images, kernel)


def _small_backward(strides, pads, dilation, residuals, grad):
    def of(forward):
        forward = functools.partial(forward, strides=strides, pads=pads, dilation=dilation)
        return lambda images, kernel, grad: jax.vjp(forward, images, kernel)[1](grad)

    return by_platform(of(_products), of(_xla_conv), *residuals, grad)


_small.defvjp(_small_forward, _small_backward)
_small_once = jax.jit(_small, static_argnums=(2, 3, 4))


# Up to this many products of input and output channels, a grouped convolution is faster on CPU as
# a dense one whose kernel is zero between groups (measured: 24 x 2, 32 x 4 and 2 x 48 channels;
# 32 x 16 and 3 x 80 are not).
_DENSE = 128 * 128


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _grouped(images, kernel, strides, pads, dilation, groups):
    """Grouped convolution; on CPU a dense one, or a sum of matrix products of the groups."""
    static = {'strides': strides, 'pads': pads, 'dilation': dilation, 'groups': groups}
    ours = functools.partial(_group_products, **static)
    return by_platform(ours, functools.partial(_xla_conv, **static), images, kernel)


def _group_products(images, kernel, strides, pads, dilation, groups):
    window, (inputs, outputs) = kernel.shape[:2], kernel.shape[2:]
    kernel = kernel.reshape(*window, inputs, groups, outputs // groups)
    if groups * inputs * outputs <= _DENSE:
        between = jnp.eye(groups, dtype=kernel.dtype)
        kernel = jnp.einsum('hwigo,Gg->hwGigo', kernel, between)
        kernel = kernel.reshape(*window, groups * inputs, outputs)
        return conv(images, kernel, strides=strides, padding=pads, dilation=dilation)
    size = _output_size(images, window, strides, pads, dilation)
    total = jnp.zeros((len(images), *size, groups, outputs // groups), images.dtype)
    for i, j, seen in _taps_of(images, window, strides, pads, dilation):
        seen = seen.reshape(*seen.shape[:3], groups, inputs)
        total = total + jnp.einsum('nhwgi,igo->nhwgo', seen, kernel[i, j])
    return total.reshape(len(images), *size, outputs)


def _grouped_forward(images, kernel, strides, pads, dilation, groups):
    return _grouped(images, kernel, strides, pads, dilation, groups), (images, kernel)


def _grouped_backward(strides, pads, dilation, groups, residuals, grad):
    static = {'strides': strides, 'pads': pads, 'dilation': dilation, 'groups': groups}

    def of(forward):
        forward = functools.partial(forward, **static)
        return lambda images, kernel, grad: jax.vjp(forward, images, kernel)[1](grad)

    return by_platform(of(_group_products), of(_xla_conv), *residuals, grad)


_grouped.defvjp(_grouped_forward, _grouped_backward)
_grouped_once = jax.jit(_grouped, static_argnums=(2, 3, 4, 5))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise(images, kernel, strides, pads, dilation):
    """Depthwise convolution; on CPU a sum of shifted images, each scaled by one tap per channel."""

    def shifts(images, kernel):
        return shift_and_add(images, kernel, strides, pads, dilation)

    def xla(images, kernel):
        return _xla_conv(images, kernel, strides, pads, dilation, images.shape[-1])

    return by_platform(shifts, xla, images, kernel)


def pad_images(images, pads, value=0, interior=(0, 0)):
    """Pads height and width (negative: crops), with `interior` values between pixels."""
    config = ((0, 0, 0), (*pads[0], interior[0]), (*pads[1], interior[1]), (0, 0, 0))
    return lax.pad(images, jnp.asarray(value, images.dtype), config)


def take_window(images, row, column, size, strides):
    """The pixels that tap (row, column) sees: (N, size[0], size[1], C)."""
    # Not by indexing, which takes far longer to trace: a net has thousands of these.
    rows, columns = (
        first + (n - 1) * stride + 1
        for first, n, stride in zip((row, column), size, strides, strict=True)
    )
    start, stop = (0, row, column, 0), (len(images), rows, columns, images.shape[-1])
    return lax.slice(images, start, stop, (1, *strides, 1))


def _output_size(images, window, strides, pads, dilation):
    axes = zip(images.shape[1:3], window, strides, pads, dilation, strict=True)
    return [(n + sum(pad) - d * (k - 1) - 1) // s + 1 for n, k, s, pad, d in axes]


def shift_and_add(images, kernel, strides, pads, dilation):
    """Depthwise convolution of (N, H, W, C) images with an (h, w, 1, C or 1) kernel."""
    taps = _taps_of(images, kernel.shape[:2], strides, pads, dilation)
    size = _output_size(images, kernel.shape[:2], strides, pads, dilation)
    total = jnp.zeros((len(images), *size, images.shape[-1]), images.dtype)
    for i, j, seen in taps:
        tap = lax.slice(kernel, (i, j, 0, 0), (i + 1, j + 1, *kernel.shape[2:]))
        total = lax.add(total, lax.mul(seen, jnp.broadcast_to(tap, total.shape)))
    return total


def _depthwise_forward(images, kernel, strides, pads, dilation):
    return _depthwise(images, kernel, strides, pads, dilation), (images, kernel)


def _depthwise_backward(strides, pads, dilation, residuals, grad):
    def shifts(images, kernel, grad):
        return (
            depthwise_image_grad(images.shape, kernel, grad, strides, pads, dilation),
            _depthwise_kernel_grad(images, kernel.shape, grad, strides, pads, dilation),
        )

    def xla(images, kernel, grad):
        def forward(images, kernel):
            return _xla_conv(images, kernel, strides, pads, dilation, images.shape[-1])

        return jax.vjp(forward, images, kernel)[1](grad)

    return by_platform(shifts, xla, *residuals, grad)


def transposed_pads(shape, window, grad_shape, strides, pads, dilation):
    """What pads a gradient, spread by the strides, so that a window sees all that saw a pixel."""
    sizes = (shape[1:3], window, grad_shape[1:3], strides, pads, dilation)
    around = []
    for n, k, m, s, (low, _), d in zip(*sizes, strict=True):
        before = d * (k - 1) - low
        spread = (m - 1) * s + 1
        around.append((before, n + d * (k - 1) - before - spread))
    return around


def depthwise_image_grad(shape, kernel, grad, strides, pads, dilation):
    """The transposed convolution: the flipped kernel over the gradient, spread by the strides."""
    around = transposed_pads(shape, kernel.shape[:2], grad.shape, strides, pads, dilation)
    spread = pad_images(grad, ((0, 0), (0, 0)), interior=(strides[0] - 1, strides[1] - 1))
    return shift_and_add(spread, kernel[::-1, ::-1], (1, 1), around, dilation)


def _depthwise_kernel_grad(images, shape, grad, strides, pads, dilation):
    """Each tap's gradient: the sum over all pixels of what it saw times the gradient there.

    A loop over the kernel's rows, each compiled once: unrolled it compiles and runs several times
    slower (XLA's CPU reductions reread the images for every tap).
    """
    size = grad.shape[1:3]
    padded = pad_images(images, pads)
    height = (size[0] - 1) * strides[0] + 1

    def row(i):
        rows = lax.dynamic_slice_in_dim(padded, i * dilation[0], height, axis=1)
        taps = (take_window(rows, 0, j * dilation[1], size, strides) for j in range(shape[1]))
        return jnp.stack([jnp.sum(seen * grad, axis=(0, 1, 2)) for seen in taps])

    return lax.map(row, jnp.arange(shape[0]))[:, :, None, :]


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
_depthwise_once = jax.jit(_depthwise, static_argnums=(2, 3, 4))


class Conv(nn.Module):
    """Convolution of (N, H, W, I) images into (N, H', W', features), without bias by default.

    Parameters: `kernel` (h, w, I / groups, features), `bias` (features,); both float32.
    """

    features: int
    window: Size = 1
    strides: Size = 1
    padding: Padding = None
    groups: int = 1
    dilation: Size = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = init.he_normal_fan_out
    bias_init: Callable = init.zeros

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = (*pair(self.window), images.shape[-1] // self.groups, self.features)
        kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
        out = conv(
            images.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=self.padding,
            groups=self.groups,
            dilation=self.dilation,
        )
        if self.use_bias:
            bias = self.param('bias', self.bias_init, (self.features,), jnp.float32)
            out = out + bias.astype(self.dtype)
        return out

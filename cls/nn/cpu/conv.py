"""Convolutions with forms for CPU where XLA's own are slow.

XLA's CPU backend runs depthwise and grouped convolutions, and convolutions with an output smaller
than their window, one to two orders of magnitude slower than necessary, and the gradients of 1x1
convolutions several times slower than a matrix product (`python -m cls.tools.benchmark layers`
measures them). `conv` lowers these differently on CPU. Results and gradients are the same up to
rounding, and programs for other platforms contain XLA's convolution.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from cls.nn.cpu import compact, native
from cls.nn.cpu.lowering import by_platform, jitted, xla_conv
from cls.nn.cpu.windows import (
    Pads,
    depthwise_image_grad,
    output_size,
    pad_images,
    shift_and_add,
    take_window,
    taps_of,
)


def conv(
    images: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    pads: Pads,
    dilation: tuple[int, int],
    groups: int = 1,
) -> jax.Array:
    """Returns the convolution (N, H', W', O) of images with a kernel.

    With the extension of `cls.nn.cpu.native`, on one device, it computes all of them.
    Within `compact.few_operations`, depthwise convolutions and those with few output pixels take
    that form, on every platform.

    Args:
      images: (N, H, W, I).
      kernel: (h, w, I / groups, O).
      strides: strides in height and width.
      pads: ((top, bottom), (left, right)) in pixels.
      dilation: dilation in height and width.
      groups: groups of channels that are convolved separately.
    """
    channels, window = images.shape[-1], kernel.shape[:2]
    size = output_size(images, window, strides, pads, dilation)
    if 0 in (images.size, kernel.size, *size):
        return xla_conv(images, kernel, strides, pads, dilation, groups)
    depthwise = groups == channels == kernel.shape[-1] and channels > 1
    small = groups == 1 and (size[0] < window[0] or size[1] < window[1])
    if (depthwise or small) and compact.fits(images.shape[1:3], size):
        return compact.conv(images, kernel, tuple(size), strides, pads, dilation)
    if native.fits(images, size, pads):
        geometry = native.Geometry(strides, pads, dilation, groups)
        return native.jitted_conv(geometry)(images, kernel)
    if depthwise:
        return _depthwise_jitted(images, kernel, strides, pads, dilation)
    if window == (1, 1) and groups == 1 and pads == ((0, 0), (0, 0)):
        return _pointwise_jitted(images, kernel, strides)
    if small:
        return _small_jitted(images, kernel, strides, pads, dilation)
    if groups > 1:
        return _grouped_jitted(images, kernel, strides, pads, dilation, groups)
    return xla_conv(images, kernel, strides, pads, dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise(images, kernel, strides):
    """A 1x1 convolution without padding; on CPU a matrix product."""

    def product(images, kernel):
        return _subsample(images, strides) @ kernel[0, 0]

    def xla(images, kernel):
        return xla_conv(images, kernel, strides, ((0, 0), (0, 0)))

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
        forward = functools.partial(xla_conv, strides=strides, pads=((0, 0), (0, 0)))
        return jax.vjp(forward, images, kernel)[1](grad)

    return by_platform(products, xla, *residuals, grad)


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)
_pointwise_jitted = jitted(_pointwise, static_argnums=(2,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _small(images, kernel, strides, pads, dilation):
    """A convolution with few output pixels; on CPU a sum of matrix products, one for each tap."""
    products = functools.partial(_products, strides=strides, pads=pads, dilation=dilation)
    xla = functools.partial(xla_conv, strides=strides, pads=pads, dilation=dilation)
    return by_platform(products, xla, images, kernel)


def _products(images, kernel, strides, pads, dilation):
    """Returns a convolution as the sum over taps of (pixels seen) @ (the tap's matrix)."""
    size = output_size(images, kernel.shape[:2], strides, pads, dilation)
    total = jnp.zeros((len(images), *size, kernel.shape[-1]), images.dtype)
    for i, j, seen in taps_of(images, kernel.shape[:2], strides, pads, dilation):
        total = total + seen @ kernel[i, j]
    return total


def _small_forward(images, kernel, strides, pads, dilation):
    return _small(images, kernel, strides, pads, dilation), (images, kernel)


def _small_backward(strides, pads, dilation, residuals, grad):
    def gradients_of(forward):
        forward = functools.partial(forward, strides=strides, pads=pads, dilation=dilation)
        return lambda images, kernel, grad: jax.vjp(forward, images, kernel)[1](grad)

    return by_platform(gradients_of(_products), gradients_of(xla_conv), *residuals, grad)


_small.defvjp(_small_forward, _small_backward)
_small_jitted = jitted(_small, static_argnums=(2, 3, 4))


# Up to this many pairs of an input and an output channel, a grouped convolution is faster on CPU as
# a dense one with zeros between groups (measured: faster with 24 groups of 2, 32 of 4 and 2 of 48
# channels, slower with 32 of 16 and 3 of 80).
_DENSE = 128 * 128


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _grouped(images, kernel, strides, pads, dilation, groups):
    """A grouped convolution; on CPU a dense one, or a sum of matrix products of the groups."""
    static = {'strides': strides, 'pads': pads, 'dilation': dilation, 'groups': groups}
    products = functools.partial(_group_products, **static)
    return by_platform(products, functools.partial(xla_conv, **static), images, kernel)


def _group_products(images, kernel, strides, pads, dilation, groups):
    """Returns a grouped convolution as a dense one, or as matrix products of the groups."""
    window, (inputs, outputs) = kernel.shape[:2], kernel.shape[2:]
    kernel = kernel.reshape(*window, inputs, groups, outputs // groups)
    if groups * inputs * outputs <= _DENSE:
        between = jnp.eye(groups, dtype=kernel.dtype)
        kernel = jnp.einsum('hwigo,Gg->hwGigo', kernel, between)
        kernel = kernel.reshape(*window, groups * inputs, outputs)
        return conv(images, kernel, strides, pads, dilation)
    size = output_size(images, window, strides, pads, dilation)
    total = jnp.zeros((len(images), *size, groups, outputs // groups), images.dtype)
    for i, j, seen in taps_of(images, window, strides, pads, dilation):
        seen = seen.reshape(*seen.shape[:3], groups, inputs)
        total = total + jnp.einsum('nhwgi,igo->nhwgo', seen, kernel[i, j])
    return total.reshape(len(images), *size, outputs)


def _grouped_forward(images, kernel, strides, pads, dilation, groups):
    return _grouped(images, kernel, strides, pads, dilation, groups), (images, kernel)


def _grouped_backward(strides, pads, dilation, groups, residuals, grad):
    static = {'strides': strides, 'pads': pads, 'dilation': dilation, 'groups': groups}

    def gradients_of(forward):
        forward = functools.partial(forward, **static)
        return lambda images, kernel, grad: jax.vjp(forward, images, kernel)[1](grad)

    return by_platform(gradients_of(_group_products), gradients_of(xla_conv), *residuals, grad)


_grouped.defvjp(_grouped_forward, _grouped_backward)
_grouped_jitted = jitted(_grouped, static_argnums=(2, 3, 4, 5))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise(images, kernel, strides, pads, dilation):
    """A depthwise convolution; on CPU a sum of shifted images, scaled by a tap per channel."""

    def shifts(images, kernel):
        return shift_and_add(images, kernel, strides, pads, dilation)

    def xla(images, kernel):
        return xla_conv(images, kernel, strides, pads, dilation, images.shape[-1])

    return by_platform(shifts, xla, images, kernel)


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
            return xla_conv(images, kernel, strides, pads, dilation, images.shape[-1])

        return jax.vjp(forward, images, kernel)[1](grad)

    return by_platform(shifts, xla, *residuals, grad)


def _depthwise_kernel_grad(images, shape, grad, strides, pads, dilation):
    """Returns the gradient of each tap: the sum over all pixels of input times output gradient.

    By a loop over the rows of the kernel: unrolled, it compiles and runs several times slower
    (XLA's CPU reductions reread the images for every tap).
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
_depthwise_jitted = jitted(_depthwise, static_argnums=(2, 3, 4))

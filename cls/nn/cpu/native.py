"""Convolutions of oneDNN and fast sums, where the extension for them was loaded (`cls.onednn`).

XLA's convolutions on CPU are two to ten times slower than oneDNN's, most of all the gradients of
kernels (`python -m cls.tools.benchmark layers`). With the extension, programs for a single CPU
device call it. Programs for several devices keep XLA's forms, which XLA can partition.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cls.nn.cpu.lowering import by_platform, xla_conv
from cls.nn.cpu.windows import Pads, output_size

_enabled = False


def enable() -> None:
    """Lets programs that are traced from now on call the extension, which is registered."""
    global _enabled
    _enabled = True


def fits(images: jax.Array, size: list[int], pads: Pads) -> bool:
    """Returns whether a convolution of images to a size can call the extension."""
    return usable(images) and min(size) > 0 and min(*pads[0], *pads[1]) >= 0


def usable(x: jax.Array) -> bool:
    """Returns whether a program on an array can call the extension."""
    return (
        _enabled
        and x.dtype in (jnp.float32, jnp.bfloat16, jnp.float16)
        and x.size > 0
        and jax.default_backend() == 'cpu'
        and jax.device_count() == 1
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def conv(
    images: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    pads: Pads,
    dilation: tuple[int, int],
    groups: int,
) -> jax.Array:
    """Returns a convolution, see `cls.nn.cpu.conv.conv`."""
    static = _static(strides, pads, dilation, groups)
    size = output_size(images, kernel.shape[:2], strides, pads, dilation)
    shape = (len(images), *size, kernel.shape[-1])

    def ours(images, kernel):
        return _call('cls_conv', shape, static, images, kernel)

    return by_platform(ours, functools.partial(xla_conv, **static), images, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5, 6))
def image_grad(
    kernel: jax.Array,
    grad: jax.Array,
    shape: tuple[int, ...],
    strides: tuple[int, int],
    pads: Pads,
    dilation: tuple[int, int],
    groups: int,
) -> jax.Array:
    """Returns the gradient of `conv` with respect to images of a shape."""
    static = _static(strides, pads, dilation, groups)

    def ours(kernel, grad):
        return _call('cls_conv_image_grad', shape, static, kernel, grad)

    def xla(kernel, grad):
        like = jax.ShapeDtypeStruct(shape, grad.dtype)
        return jax.linear_transpose(lambda x: xla_conv(x, kernel, **static), like)(grad)[0]

    return by_platform(ours, xla, kernel, grad)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5, 6))
def kernel_grad(
    images: jax.Array,
    grad: jax.Array,
    shape: tuple[int, ...],
    strides: tuple[int, int],
    pads: Pads,
    dilation: tuple[int, int],
    groups: int,
) -> jax.Array:
    """Returns the gradient of `conv` with respect to a kernel of a shape."""
    static = _static(strides, pads, dilation, groups)

    def ours(images, grad):
        return _call('cls_conv_kernel_grad', shape, static, images, grad)

    def xla(images, grad):
        like = jax.ShapeDtypeStruct(shape, grad.dtype)
        return jax.linear_transpose(lambda x: xla_conv(images, x, **static), like)(grad)[0]

    return by_platform(ours, xla, images, grad)


def _static(strides, pads, dilation, groups) -> dict[str, Any]:
    return {'strides': strides, 'pads': pads, 'dilation': dilation, 'groups': groups}


def _call(name, shape, static, *operands, **numbers):
    numbers |= {key: np.asarray(static[key], np.int64).reshape(-1) for key in static}
    numbers['groups'] = numbers['groups'][0]
    result = jax.ShapeDtypeStruct(shape, operands[0].dtype)
    return _ffi(name, result)(*operands, **numbers)


def _ffi(name, results):
    # Under vmap one after another: each call uses all cores.
    return jax.ffi.ffi_call(name, results, vmap_method='sequential')


# The three functions are linear in each argument, and the gradients of each are the other two.


def _forward(images, kernel, *static):
    return conv(images, kernel, *static), (images, kernel)


def _backward(*args):
    *static, (images, kernel), grad = args
    return (
        image_grad(kernel, grad, images.shape, *static),
        kernel_grad(images, grad, kernel.shape, *static),
    )


def _image_grad_forward(kernel, grad, *static):
    return image_grad(kernel, grad, *static), (kernel, grad)


def _image_grad_backward(shape, *args):
    *static, (kernel, grad), images = args
    return kernel_grad(images, grad, kernel.shape, *static), conv(images, kernel, *static)


def _kernel_grad_forward(images, grad, *static):
    return kernel_grad(images, grad, *static), (images, grad)


def _kernel_grad_backward(shape, *args):
    *static, (images, grad), kernel = args
    return image_grad(kernel, grad, images.shape, *static), conv(images, kernel, *static)


conv.defvjp(_forward, _backward)
image_grad.defvjp(_image_grad_forward, _image_grad_backward)
kernel_grad.defvjp(_kernel_grad_forward, _kernel_grad_backward)


@functools.cache
def jitted_conv(
    strides: tuple[int, int], pads: Pads, dilation: tuple[int, int], groups: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns `conv` as a jitted function of images and kernel, known to `statics` by its name."""
    # Jitted separately, a layer is traced only once for each shape; deep networks repeat shapes.
    numbers = (*strides, *pads[0], *pads[1], *dilation, groups)
    name = '_'.join(map(str, ['native_conv', *numbers]))
    _STATICS[name] = _static(strides, pads, dilation, groups)

    def named(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(images, kernel, strides, pads, dilation, groups)

    named.__name__ = name
    return jax.jit(named)


_STATICS: dict[str, dict[str, Any]] = {}


def statics(name: str) -> dict[str, Any] | None:
    """Returns strides, pads, dilation and groups of a `jitted_conv`, None for other functions."""
    return _STATICS.get(name)


ACTIVATIONS = {'relu': 1, 'relu6': 2, 'silu': 3, 'hard_silu': 4}  # names of JAX's functions


def inference_conv(
    images: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    added: jax.Array | None,
    activation: str,
    static: Mapping[str, Any],
) -> jax.Array:
    """Returns activation(convolution + bias + added), in one pass. Only for programs for CPU.

    Args:
      images: float32 (N, H, W, I).
      kernel: float32 (h, w, I / groups, O).
      bias: float32 (O,).
      added: float32 (N, H', W', O), or None.
      activation: one of ACTIVATIONS, or ''.
      static: see `statics`.
    """
    size = output_size(
        images, kernel.shape[:2], static['strides'], static['pads'], static['dilation']
    )
    shape = (len(images), *size, kernel.shape[-1])
    others = () if added is None else (added,)
    code = np.int64(ACTIVATIONS.get(activation, 0))
    operands = (images, kernel, bias, *others)
    return _call('cls_conv_inference', shape, static, *operands, activation=code)


def moments(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Returns the means and variances (G, C) of groups of examples of x (N, ..., C).

    Without a gradient, see `cls.nn.norm.moments`. Only for programs for CPU.
    """
    result = jax.ShapeDtypeStruct((groups, x.shape[-1]), jnp.float32)
    return _ffi('cls_moments', (result, result))(x)


@jax.custom_vjp
def grad_sums(dout: jax.Array, x: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums (G, C) of dout and of dout * (x - mean) over groups of examples.

    Only for programs for CPU.

    Args:
      dout: (N, ..., C).
      x: (N, ..., C).
      mean: (G, C).
    """
    result = jax.ShapeDtypeStruct(mean.shape, jnp.float32)
    return _ffi('cls_grad_sums', (result, result))(dout, x, mean)


def _grad_sums_forward(dout, x, mean):
    first, second = grad_sums(dout, x, mean)
    return (first, second), (dout, x, mean, first)


def _grad_sums_backward(residuals, grads):
    dout, x, mean, first = residuals

    def spread(values):  # (G, C) to a row for each example
        each = jnp.repeat(values, len(x) // len(values), 0)
        return each.reshape(-1, *(1,) * (x.ndim - 2), x.shape[-1])

    of_first, of_second = grads
    d_dout = spread(of_first) + spread(of_second) * (x - spread(mean))
    return d_dout, spread(of_second) * dout, -of_second * first


grad_sums.defvjp(_grad_sums_forward, _grad_sums_backward)

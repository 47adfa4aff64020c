"""Convolutions of oneDNN, where the extension for them was loaded (`cls.onednn`).

XLA's convolutions on CPU are slower than oneDNN's, most of all the gradients of kernels
(`python -m cls.tools.benchmark layers`). With the extension, programs for a single CPU
device call it. Programs for several devices keep XLA's forms, which XLA can partition.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls.nn.cpu.lowering import by_platform, choose, is_for_cpu, is_portable, jitted, xla_conv
from cls.nn.cpu.windows import Pads, output_size

_enabled = False


def enable() -> None:
    """Lets programs that are traced from now on call the extension, which is registered."""
    global _enabled
    _enabled = True


def is_enabled() -> bool:
    """Returns whether programs for one CPU device can call the extension; not if portable."""
    if not _enabled or is_portable():
        return False
    return jax.default_backend() == 'cpu' and jax.device_count() == 1


def is_certain() -> bool:
    """Returns whether the caller is traced for a program that can call the extension, no other."""
    return is_for_cpu() and is_enabled()


def fits(images: jax.Array, size: list[int], pads: Pads) -> bool:
    """Returns whether a convolution of images to a size can call the extension."""
    return usable(images) and min(size) > 0 and min(*pads[0], *pads[1]) >= 0


def usable(x: jax.Array) -> bool:
    """Returns whether a program on an array can call the extension."""
    if not is_enabled():  # first: of a portable program the size may be symbolic
        return False
    return x.dtype in (jnp.float32, jnp.bfloat16, jnp.float16) and x.size > 0


def instead(plain: Callable, own: Callable, *args: jax.Array) -> Any:
    """Returns own(*args) in programs that can call the extension, plain(*args) in all others.

    Both compute the same, and `own` in float32. Gradients are those of `plain`, in reverse mode
    only: a program that calls the extension has no forward-mode derivatives.
    """
    if not all(map(usable, args)):
        return plain(*args)
    form = own
    if any(x.dtype != jnp.float32 for x in args):
        types = jax.eval_shape(plain, *args)

        def form(*args):
            made = own(*(x.astype(jnp.float32) for x in args))
            return jax.tree.map(lambda x, like: x.astype(like.dtype), made, types)

    def backward(args, grads):
        return jax.vjp(plain, *args)[1](grads)

    function = jax.custom_vjp(form)
    function.defvjp(lambda *args: (form(*args), args), backward)
    return choose(*args, cpu=function, default=plain)


class Geometry(NamedTuple):
    """The numbers of a convolution, see `cls.nn.cpu.conv.conv`."""

    strides: tuple[int, int]
    pads: Pads
    dilation: tuple[int, int]
    groups: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(images: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns a convolution, see `cls.nn.cpu.conv.conv`."""

    def own(images, kernel):
        shape = _output_shape(images, kernel, geometry)
        return _call('cls_conv', shape, geometry, images, kernel)

    return by_platform(own, functools.partial(xla_conv, **geometry._asdict()), images, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def image_grad(
    kernel: jax.Array, grad: jax.Array, shape: tuple[int, ...], geometry: Geometry
) -> jax.Array:
    """Returns the gradient of `conv` with respect to images of a shape."""

    def forward(images, kernel):
        return xla_conv(images, kernel, **geometry._asdict())

    def own(kernel, grad):
        return _call('cls_conv_image_grad', shape, geometry, kernel, grad)

    return _gradient(own, forward, kernel, grad, shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def kernel_grad(
    images: jax.Array, grad: jax.Array, shape: tuple[int, ...], geometry: Geometry
) -> jax.Array:
    """Returns the gradient of `conv` with respect to a kernel of a shape."""

    def forward(kernel, images):
        return xla_conv(images, kernel, **geometry._asdict())

    def own(images, grad):
        seen, strided = geometry, geometry.strides != (1, 1) and not np.any(geometry.pads)
        if strided and shape[:2] == (1, 1) and shape[2] < 16:
            # The pixels that the kernel sees: oneDNN would copy them to too little memory, if a
            # vector has more lanes than there are inputs (its issue 6035, seen in 3.2.0).
            (height, width), (down, across) = grad.shape[1:3], geometry.strides
            images = images[:, ::down, ::across][:, :height, :width]
            seen = geometry._replace(strides=(1, 1))
        return _call('cls_conv_kernel_grad', shape, seen, images, grad)

    return _gradient(own, forward, images, grad, shape)


def _gradient(own, forward, other, grad, shape):
    """Returns own(other, grad), the gradient of forward(x, other) for x of a shape; linear in x."""

    def xla(other, grad):
        like = jax.ShapeDtypeStruct(shape, grad.dtype)
        return jax.linear_transpose(lambda x: forward(x, other), like)(grad)[0]

    return by_platform(own, xla, other, grad)


def _output_shape(images, kernel, geometry):
    strides, pads, dilation, groups = geometry
    if images.shape[-1] != kernel.shape[2] * groups or kernel.shape[3] % groups:
        raise ValueError(
            f'a kernel {kernel.shape} in {groups} groups for images with {images.shape[-1]} '
            'channels: expected (h, w, channels / groups, a multiple of the groups)'
        )
    size = output_size(images, kernel.shape[:2], strides, pads, dilation)
    return (len(images), *size, kernel.shape[-1])


def _call(name, shape, geometry, *operands, **numbers):
    strides, pads, dilation, groups = geometry
    lists = {'strides': strides, 'pads': (*pads[0], *pads[1]), 'dilation': dilation}
    numbers |= {key: np.asarray(values, np.int64) for key, values in lists.items()}
    result = jax.ShapeDtypeStruct(shape, operands[0].dtype)
    return ffi(name, result)(*operands, groups=np.int64(groups), **numbers)


def ffi(name: str, results: Any, **options: Any) -> Callable:
    """Returns a function of the extension, for results of given shapes and dtypes."""
    # Under vmap one after another: each call uses all cores.
    return jax.ffi.ffi_call(name, results, vmap_method='sequential', **options)


# The three functions are linear in each argument, and the gradients of each are the other two.


def _forward(images, kernel, geometry):
    return conv(images, kernel, geometry), (images, kernel)


def _backward(geometry, residuals, grad):
    images, kernel = residuals
    return (
        image_grad(kernel, grad, images.shape, geometry),
        kernel_grad(images, grad, kernel.shape, geometry),
    )


def _image_grad_forward(kernel, grad, shape, geometry):
    return image_grad(kernel, grad, shape, geometry), (kernel, grad)


def _image_grad_backward(shape, geometry, residuals, images):
    kernel, grad = residuals
    return kernel_grad(images, grad, kernel.shape, geometry), conv(images, kernel, geometry)


def _kernel_grad_forward(images, grad, shape, geometry):
    return kernel_grad(images, grad, shape, geometry), (images, grad)


def _kernel_grad_backward(shape, geometry, residuals, kernel):
    images, grad = residuals
    return image_grad(kernel, grad, images.shape, geometry), conv(images, kernel, geometry)


conv.defvjp(_forward, _backward)
image_grad.defvjp(_image_grad_forward, _image_grad_backward)
kernel_grad.defvjp(_kernel_grad_forward, _kernel_grad_backward)


_GEOMETRIES: dict[str, Geometry] = {}


@functools.cache
def jitted_conv(geometry: Geometry) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns `conv` as a jitted function of images and kernel, known to `geometry_of` by name."""
    strides, pads, dilation, groups = geometry
    numbers = (*strides, *pads[0], *pads[1], *dilation, groups)
    name = '_'.join(map(str, ['native_conv', *numbers]))
    _GEOMETRIES[name] = geometry

    def named(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(images, kernel, geometry)

    named.__name__ = name
    return jitted(named)


def geometry_of(name: str) -> Geometry | None:
    """Returns the geometry of a `jitted_conv` by its name, None for other functions."""
    return _GEOMETRIES.get(name)


ACTIVATIONS = {'relu': 1, 'relu6': 2, 'silu': 3, 'hard_silu': 4}  # names of JAX's functions


def inference_conv(
    images: jax.Array,
    kernel: jax.Array,
    factor: jax.Array,
    bias: jax.Array,
    added: jax.Array | None,
    activation: str,
    geometry: Geometry,
) -> jax.Array:
    """Returns activation(convolution * factor + bias + added), in one pass. Only for CPUs.

    Args:
      images: float32 (N, H, W, I).
      kernel: float32 (h, w, I / groups, O).
      factor: float32 (O,).
      bias: float32 (O,).
      added: float32 (N, H', W', O), or None.
      activation: one of ACTIVATIONS, or ''.
      geometry: that of the convolution.
    """
    shape = _output_shape(images, kernel, geometry)
    operands = (images, kernel, factor, bias, *(() if added is None else (added,)))
    code = np.int64(ACTIVATIONS.get(activation, 0))
    return _call('cls_conv_inference', shape, geometry, *operands, activation=code)

"""Random changes of colour and light, on float32 images (N, H, W, C) in 0..255, each image's own.

Numbers that are drawn have shape (N,). Images of one channel have no hue and no saturation.
"""

import jax
import jax.numpy as jnp

# Of ImageNet's RGB values in 0..1 (fb.resnet.torch): rows are channels, columns components.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
HUE = 3  # in an order: the other operations are numbered 0, 1, 2
# The four orders of TF-slim's distort_color, of brightness 0, saturation 1, contrast 2, hue 3.
INCEPTION_ORDERS = ((0, 1, 3, 2), (1, 0, 2, 3), (2, 3, 0, 1), (3, 1, 2, 0))


def uniform(keys: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    """Returns numbers in 0..1, (N, *shape), for keys (N,)."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)


def jitter(
    images: jax.Array,
    keys: jax.Array,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> jax.Array:
    """Jitters colours as torchvision's ColorJitter: in random order, clipped after each change.

    fb.resnet.torch's jitter is this without hue, but clips nothing.

    Args:
      images: (N, H, W, C).
      keys: (N,).
      brightness: factors are drawn from 1 - this (at least 0) to 1 + this.
      contrast: likewise.
      saturation: likewise.
      hue: shifts of up to this part of the circle, 0..0.5, to either side.
    """
    numbers = uniform(keys, (8,))
    spread = jnp.array([brightness, saturation, contrast])
    low = jnp.maximum(1 - spread, 0)
    factors = low + (1 + spread - low) * numbers[:, :3]
    shift = hue * (2 * numbers[:, 3] - 1)
    order = jnp.argsort(numbers[:, 4:], axis=1) if hue else jnp.argsort(numbers[:, 4:7], axis=1)
    used = [i for i, range_ in enumerate((brightness, saturation, contrast)) if range_]

    def change(images, which):
        return jnp.clip(_adjust(images, factors, which, used), 0, 255)

    return _in_order(images, order, change, shift if hue else None, len(used))


def _adjust(images, factors, which, used) -> jax.Array:
    """Blends each image with black (0), its gray image (1) or its mean gray (2): `which`."""
    factor = jnp.ones_like(factors[:, 0])
    for i in used:
        factor = jnp.where(which == i, factors[:, i], factor)
    luminance = _gray(images)
    mean = luminance.mean((1, 2, 3), keepdims=True)
    other = jnp.where(_column(which == 1), luminance, jnp.where(_column(which == 2), mean, 0))
    return other + _column(factor) * (images - other)


def inception(images: jax.Array, keys: jax.Array, fast: bool = False) -> jax.Array:
    """Inception's photometric distortions (TF-slim's distort_color), clipped at the end.

    Brightness + up to 32 to either side, saturation * 0.5..1.5, hue + up to 0.2 of the circle to
    either side, contrast * 0.5..1.5, in one of four orders.

    Args:
      images: (N, H, W, C).
      keys: (N,).
      fast: brightness, then saturation, and no more (slim's fast_mode, which is its default).
    """
    numbers = uniform(keys, (5,))
    brightness = 32 * (2 * numbers[:, 0] - 1)
    saturation, contrast = 0.5 + numbers[:, 1], 0.5 + numbers[:, 2]
    if fast:
        return jnp.clip(saturate(images + _column(brightness), saturation), 0, 255)
    shift = 0.2 * (2 * numbers[:, 3] - 1)
    order = jnp.array(INCEPTION_ORDERS)[jnp.int32(4 * numbers[:, 4])]

    def change(images, which):
        images = images + _column(jnp.where(which == 0, brightness, 0))
        mean = images.mean((1, 2), keepdims=True)
        stretched = mean + _column(contrast) * (images - mean)
        images = jnp.where(_column(which == 2), stretched, images)
        return jnp.where(_column(which == 1), saturate(images, saturation), images)

    return jnp.clip(_in_order(images, order, change, shift, 3), 0, 255)


def _in_order(images, order, change, shift, count) -> jax.Array:
    """Applies change(images, which) in each image's order, and the shift of hue where it stands.

    Hue, the dearest, is computed once: changes that come before it for an image are made in a first
    round, the others in a second.

    Args:
      images: (N, H, W, C).
      order: (N, 3 or 4) of 0, 1, 2 and HUE.
      change: `which` is (N,), -1: none.
      shift: (N,) parts of the circle; None: `order` has no HUE.
      count: how many of 0, 1, 2 there are to apply; 0: none.
    """
    if not count:
        return shift_hue(images, shift)
    if shift is None:
        for which in order.T:
            images = change(images, which)
        return images
    position = jnp.argmax(order == HUE, axis=1)
    for i in range(3):
        images = change(images, jnp.where(i < position, order[:, i], -1))
    images = shift_hue(images, shift)
    for i in range(1, 4):
        images = change(images, jnp.where(i > position, order[:, i], -1))
    return images


def shift_hue(images: jax.Array, shift: jax.Array) -> jax.Array:
    """Turns hues by parts (N,) of the circle; the largest and smallest values of a pixel stay."""
    if images.shape[-1] == 1:
        return images
    high = images.max(-1, keepdims=True)
    chroma = high - images.min(-1, keepdims=True)
    hue = _hue(images, high, chroma) + 6 * _column(shift)
    k = (jnp.array([5.0, 3.0, 1.0]) + hue) % 6
    return high - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def _hue(images, high, chroma) -> jax.Array:
    """Sixths of the circle, (N, H, W, 1), in -1..5."""
    red, green, blue = (images[..., i : i + 1] for i in range(3))
    chroma = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(green == high, (blue - red) / chroma + 2, (red - green) / chroma + 4)
    return jnp.where(red == high, (green - blue) / chroma, sixths)


def saturate(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies HSV's saturation by (N,), to at most 1; TensorFlow's adjust_saturation."""
    if images.shape[-1] == 1:
        return images
    high = images.max(-1, keepdims=True)
    chroma = high - images.min(-1, keepdims=True)
    most = high / jnp.where(chroma > 0, chroma, 1)  # by which saturation is 1
    factor = jnp.where(high > 0, jnp.minimum(_column(factor), most), 0)
    return high - jnp.where(chroma > 0, factor, 1) * (high - images)


def shift_hsl(images: jax.Array, shifts: jax.Array) -> jax.Array:
    """Adds to hue, saturation and lightness, each then kept in 0..1 (MXNet's augmenter).

    Hue does not wrap around there.

    Args:
      images: (N, H, W, 3).
      shifts: (N, 3), of 1.
    """
    images = images / 255
    high, low = images.max(-1, keepdims=True), images.min(-1, keepdims=True)
    chroma, light = high - low, (high + low) / 2
    room = 1 - jnp.abs(2 * light - 1)
    saturation = jnp.where(chroma > 0, chroma / jnp.where(room > 0, room, 1), 0)
    hue = jnp.where(chroma > 0, _hue(images, high, chroma) / 6 % 1, 0)
    hue, saturation, light = (
        jnp.clip(x + _column(shifts[:, i]), 0, 1) for i, x in enumerate((hue, saturation, light))
    )
    k = (jnp.array([0.0, 8.0, 4.0]) + 12 * hue) % 12
    reach = saturation * jnp.minimum(light, 1 - light)
    return 255 * (light - reach * jnp.clip(jnp.minimum(k - 3, 9 - k), -1, 1))


def light(images: jax.Array, amounts: jax.Array) -> jax.Array:
    """Adds multiples of ImageNet's principal colours (AlexNet, section 4.1); nothing is clipped.

    Args:
      images: (N, H, W, 3).
      amounts: (N, 3), drawn from a normal distribution.
    """
    colours = (amounts * jnp.array(EIGENVALUES)) @ jnp.array(EIGENVECTORS).T
    return images + 255 * colours[:, None, None]


def _gray(images: jax.Array) -> jax.Array:
    if images.shape[-1] == 1:
        return images
    return (images * jnp.array([0.299, 0.587, 0.114])).sum(-1, keepdims=True)


def _column(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]

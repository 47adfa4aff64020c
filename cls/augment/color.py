"""Random changes of color and light, drawn for each image of a batch.

Images are float32 (N, H, W, C) in 0..255. Those of one channel have neither hue nor saturation.
"""

import jax
import jax.numpy as jnp

from cls.augment.batch import channels, column, one_by_one

# Principal components of ImageNet's RGB values in 0..1 (fb.resnet.torch): rows are channels,
# columns components.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
# An order has the indices of operations: brightness 0, saturation 1, contrast 2, hue 3.
HUE = 3
# The four orders of TF-Slim's distort_color.
INCEPTION_ORDERS = ((0, 1, 3, 2), (1, 0, 2, 3), (2, 3, 0, 1), (3, 1, 2, 0))


def uniform(keys: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    """Returns uniform random numbers in [0, 1), (N, *shape), for keys (N,)."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)


def jitter(
    images: jax.Array,
    keys: jax.Array,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> jax.Array:
    """Returns images with jittered colors, as torchvision's ColorJitter.

    Changes have a random order, and each is clipped to 0..255. fb.resnet.torch's jitter has no hue
    and does not clip.

    Args:
      images: float32 (N, H, W, C) in 0..255.
      keys: (N,).
      brightness: factors are from 1 - brightness, at least 0, to 1 + brightness.
      contrast: as brightness.
      saturation: as brightness.
      hue: largest shift in either direction, in turns of the color circle, 0..0.5.

    Returns:
      float32 (N, H, W, C).
    """
    numbers = uniform(keys, (8,))
    spread = jnp.array([brightness, saturation, contrast])
    low = jnp.maximum(1 - spread, 0)
    factors = low + (1 + spread - low) * numbers[:, :3]
    shift = hue * (2 * numbers[:, 3] - 1)
    order = jnp.argsort(numbers[:, 4:], axis=1) if hue else jnp.argsort(numbers[:, 4:7], axis=1)
    used = [i for i, range_ in enumerate((brightness, saturation, contrast)) if range_]

    def change(images, index, factors):
        return jnp.clip(_adjust(images, index, factors, used), 0, 255)

    return _in_order(images, order, change, factors, shift if hue else None, used)


def _adjust(images, index, factors, used) -> jax.Array:
    """Returns images blended with black (index 0), their gray image (1) or mean gray (2)."""
    factor = jnp.ones_like(factors[:, 0])
    for i in used:
        factor = jnp.where(index == i, factors[:, i], factor)
    mean = _gray(images.mean((1, 2), keepdims=True))
    other = jnp.where(column(index == 1), _gray(images), jnp.where(column(index == 2), mean, 0))
    return other + column(factor) * (images - other)


def inception(images: jax.Array, keys: jax.Array, fast: bool = False) -> jax.Array:
    """Returns images with Inception's photometric distortions (TF-Slim's distort_color).

    Brightness is shifted by up to 32, saturation scaled by 0.5 to 1.5, hue shifted by up to 0.2
    turns and contrast scaled by 0.5 to 1.5, in one of four orders. Clipped at the end.

    Args:
      images: float32 (N, H, W, C) in 0..255.
      keys: (N,).
      fast: brightness, then saturation, only (TF-Slim's fast_mode, its default).

    Returns:
      float32 (N, H, W, C).
    """
    numbers = uniform(keys, (5,))
    brightness = 32 * (2 * numbers[:, 0] - 1)
    saturation, contrast = 0.5 + numbers[:, 1], 0.5 + numbers[:, 2]
    if fast:
        return jnp.clip(saturate(images + column(brightness), saturation), 0, 255)
    shift = 0.2 * (2 * numbers[:, 3] - 1)
    order = jnp.array(INCEPTION_ORDERS)[jnp.int32(4 * numbers[:, 4])]

    def change(images, index, amounts):
        brightness, saturation, contrast = amounts.T
        images = images + column(jnp.where(index == 0, brightness, 0))
        mean = images.mean((1, 2), keepdims=True)
        stretched = mean + column(contrast) * (images - mean)
        images = jnp.where(column(index == 2), stretched, images)
        return jnp.where(column(index == 1), saturate(images, saturation), images)

    amounts = jnp.stack([brightness, saturation, contrast], -1)
    return jnp.clip(_in_order(images, order, change, amounts, shift, [0, 1, 2]), 0, 255)


def _in_order(images, order, change, amounts, shift, used) -> jax.Array:
    """Returns images after all changes, in each image's order.

    Args:
      images: (N, H, W, C).
      order: (N, 3 or 4), permutations of 0, 1, 2 and HUE.
      change: (images, index (N,), amounts) -> images; -1 leaves an image unchanged.
      amounts: the amounts of changes, (N, 3).
      shift: shift of hue, (N,), in turns; None: `order` has no HUE.
      used: the indices that `change` is called with.
    """
    if not used:
        return shift_hue(images, shift)
    hues = [] if shift is None else [shift]

    def one(images, order, amounts, *hues):
        branches = [lambda images: images] * 3 + [lambda images: shift_hue(images, *hues)]
        for i in used:
            branches[i] = lambda images, i=i: change(images, jnp.full(1, i), amounts)
        branches = branches[: 3 + len(hues)]
        step = lambda images, index: (jax.lax.switch(index, branches, images), None)  # noqa: E731
        return jax.lax.scan(step, images, order[0])[0]

    def together(images, order, amounts, *hues):
        if not hues:
            for index in order.T:
                images = change(images, index, amounts)
            return images
        # Hue is the most expensive change and is computed only once: a first round makes the
        # changes before it, a second round those after it.
        position = jnp.argmax(order == HUE, axis=1)
        for i in range(3):
            images = change(images, jnp.where(i < position, order[:, i], -1), amounts)
        images = shift_hue(images, *hues)
        for i in range(1, 4):
            images = change(images, jnp.where(i > position, order[:, i], -1), amounts)
        return images

    return one_by_one(one, together, images, order, amounts, *hues)


def shift_hue(images: jax.Array, shift: jax.Array) -> jax.Array:
    """Returns images with hues shifted by (N,) turns; a pixel keeps its largest and smallest value.

    Args:
      images: float32 (N, H, W, C).
      shift: (N,).
    """
    if images.shape[-1] == 1:
        return images
    high, chroma = _range(images)
    hue = _hue(images, chroma) + 6 * column(shift)
    k = jnp.array([5.0, 3.0, 1.0]) + hue
    k = k - 6 * jnp.floor(k / 6)  # faster than a remainder
    return high - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def _range(images) -> tuple[jax.Array, jax.Array]:
    """Returns the largest of the values of each pixel, and its distance to the smallest."""
    red, green, blue = channels(images)
    high = jnp.maximum(red, jnp.maximum(green, blue))
    return high, high - jnp.minimum(red, jnp.minimum(green, blue))


def _hue(images, chroma) -> jax.Array:
    """Returns hues in sixths of a turn, (N, H, W, 1), in -1..5."""
    red, green, blue = channels(images)
    chroma = jnp.where(chroma > 0, chroma, 1)
    # Not `red == high`: a compiler may round two computations of the same pixel differently.
    sixths = jnp.where(green >= blue, (blue - red) / chroma + 2, (red - green) / chroma + 4)
    return jnp.where(red >= jnp.maximum(green, blue), (green - blue) / chroma, sixths)


def saturate(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns images with HSV's saturation times `factor`, at most 1 (tf.image.adjust_saturation).

    Args:
      images: float32 (N, H, W, C).
      factor: (N,).
    """
    if images.shape[-1] == 1:
        return images
    high, chroma = _range(images)
    most = high / jnp.where(chroma > 0, chroma, 1)  # the factor to a saturation of 1
    factor = jnp.where(high > 0, jnp.minimum(column(factor), most), 0)
    return high - jnp.where(chroma > 0, factor, 1) * (high - images)


def shift_hsl(images: jax.Array, shifts: jax.Array) -> jax.Array:
    """Returns images with hue, saturation and lightness shifted and clipped to 0..1.

    As in MXNet's augmenter, hue does not wrap around.

    Args:
      images: float32 (N, H, W, 3) in 0..255.
      shifts: (N, 3), of values in 0..1.
    """
    images = images / 255
    high, chroma = _range(images)
    light = high - chroma / 2
    room = 1 - jnp.abs(2 * light - 1)
    saturation = jnp.where(chroma > 0, chroma / jnp.where(room > 0, room, 1), 0)
    hue = _hue(images, chroma) / 6
    hue = jnp.where(chroma > 0, hue - jnp.floor(hue), 0)
    hue, saturation, light = (
        jnp.clip(x + column(shifts[:, i]), 0, 1) for i, x in enumerate((hue, saturation, light))
    )
    k = jnp.array([0.0, 8.0, 4.0]) + 12 * hue  # less than 24
    k = jnp.where(k < 12, k, k - 12)
    reach = saturation * jnp.minimum(light, 1 - light)
    return 255 * (light - reach * jnp.clip(jnp.minimum(k - 3, 9 - k), -1, 1))


def light(images: jax.Array, amounts: jax.Array) -> jax.Array:
    """Returns images plus multiples of ImageNet's principal components of color, not clipped.

    Krizhevsky et al. 2012 (AlexNet), section 4.1.

    Args:
      images: float32 (N, H, W, 3) in 0..255.
      amounts: (N, 3), from a normal distribution.
    """
    shifts = (amounts * jnp.array(EIGENVALUES)) @ jnp.array(EIGENVECTORS).T
    return images + 255 * shifts[:, None, None]


def add_noise(images: jax.Array, keys: jax.Array, most: float) -> jax.Array:
    """Returns images plus uniform noise for each value, clipped to 0..255.

    Args:
      images: float32 (N, H, W, C).
      keys: (N,).
      most: the noise is from -most to most.
    """

    def noisy(images, keys):
        noise = 2 * uniform(keys, images.shape[1:]) - 1
        return jnp.clip(images + most * noise, 0, 255)

    return one_by_one(noisy, noisy, images, keys)


def _gray(images: jax.Array) -> jax.Array:
    """Returns luminance (N, H, W, 1)."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = channels(images)
    return 0.299 * red + 0.587 * green + 0.114 * blue

"""AutoAugment, RandAugment, TrivialAugment: draws of operations and magnitudes for a batch.

AutoAugment (Cubuk et al. 2019, 1805.09501): an image draws one of 25 sub-policies; each of its two
operations is applied with a probability, at a magnitude in 0..9. The tables of ImageNet, CIFAR-10
("reduced", appendix A) and SVHN are those of the paper, with magnitudes as in its table 6: ten even
steps over the range. `autoaugment_v0` is from EfficientNet's released code and not in the paper;
its magnitudes are out of 10, and factors of color, contrast, brightness and sharpness go from 0.1
to 1.9 instead of from 1 in both directions.

RandAugment (Cubuk et al. 2020, 1909.13719): `layers` operations, drawn uniformly, all at the same
magnitude out of 10. `randaugment` is the released code: 16 operations; with a larger magnitude,
factors grow, and posterize and solarize become weaker. `randaugment_increasing` is timm's
'rand-mM-nN-mstdS-inc1': 15 operations (without cutout) that all become stronger, each applied with
probability 1/2, at a normally distributed magnitude.

TrivialAugment (Müller & Hutter 2021, 2103.10158, section 3): one operation, drawn uniformly out of
14, at a magnitude drawn uniformly out of 31 levels. The ranges are those of its "wide" space as in
torchvision's TrivialAugmentWide: translations by up to 32 pixels of an image of any size, outside
of the image black.

In the other policies translations are relative to the side of the image (at most 0.45, as in timm,
for the 100 of 224 pixels of the released code), and so is RandAugment's cutout (half its side at
most 40 of 224); outside of the image is gray, as in the released code. Warps sample the nearest
pixel.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cls.augment.operations import OPERATIONS, operate_in_turn

# A sub-policy is twice (operation, probability, magnitude).
_IMAGENET = """
    posterize 0.4 8 rotate 0.6 9, solarize 0.6 5 auto_contrast 0.6 5, equalize 0.8 8 equalize 0.6 3,
    posterize 0.6 7 posterize 0.6 6, equalize 0.4 7 solarize 0.2 4, equalize 0.4 4 rotate 0.8 8,
    solarize 0.6 3 equalize 0.6 7, posterize 0.8 5 equalize 1.0 2, rotate 0.2 3 solarize 0.6 8,
    equalize 0.6 8 posterize 0.4 6, rotate 0.8 8 color 0.4 0, rotate 0.4 9 equalize 0.6 2,
    equalize 0.0 7 equalize 0.8 8, invert 0.6 4 equalize 1.0 8, color 0.6 4 contrast 1.0 8,
    rotate 0.8 8 color 1.0 2, color 0.8 8 solarize 0.8 7, sharpness 0.4 7 invert 0.6 8,
    shear_x 0.6 5 equalize 1.0 9, color 0.4 0 equalize 0.6 3, equalize 0.4 7 solarize 0.2 4,
    solarize 0.6 5 auto_contrast 0.6 5, invert 0.6 4 equalize 1.0 8, color 0.6 4 contrast 1.0 8,
    equalize 0.8 8 equalize 0.6 3"""
_CIFAR10 = """
    invert 0.1 7 contrast 0.2 6, rotate 0.7 2 translate_x 0.3 9, sharpness 0.8 1 sharpness 0.9 3,
    shear_y 0.5 8 translate_y 0.7 9, auto_contrast 0.5 8 equalize 0.9 2,
    shear_y 0.2 7 posterize 0.3 7, color 0.4 3 brightness 0.6 7, sharpness 0.3 9 brightness 0.7 9,
    equalize 0.6 5 equalize 0.5 1, contrast 0.6 7 sharpness 0.6 5, color 0.7 7 translate_x 0.5 8,
    equalize 0.3 7 auto_contrast 0.4 8, translate_y 0.4 3 sharpness 0.2 6,
    brightness 0.9 6 color 0.2 8, solarize 0.5 2 invert 0.0 3, equalize 0.2 0 auto_contrast 0.6 0,
    equalize 0.2 8 equalize 0.6 4, color 0.9 9 equalize 0.6 6, auto_contrast 0.8 4 solarize 0.2 8,
    brightness 0.1 3 color 0.7 0, solarize 0.4 5 auto_contrast 0.9 3,
    translate_y 0.9 9 translate_y 0.7 9, auto_contrast 0.9 2 solarize 0.8 3,
    equalize 0.8 8 invert 0.1 3, translate_y 0.7 9 auto_contrast 0.9 1"""
_SVHN = """
    shear_x 0.9 4 invert 0.2 3, shear_y 0.9 8 invert 0.7 5, equalize 0.6 5 solarize 0.6 6,
    invert 0.9 3 equalize 0.6 3, equalize 0.6 1 rotate 0.9 3, shear_x 0.9 4 auto_contrast 0.8 3,
    shear_y 0.9 8 invert 0.4 5, shear_y 0.9 5 solarize 0.2 6, invert 0.9 6 auto_contrast 0.8 1,
    equalize 0.6 3 rotate 0.9 3, shear_x 0.9 4 solarize 0.3 3, shear_y 0.8 8 invert 0.7 4,
    equalize 0.9 5 translate_y 0.6 6, invert 0.9 4 equalize 0.6 7, contrast 0.3 3 rotate 0.8 4,
    invert 0.8 5 translate_y 0.0 2, shear_y 0.7 6 solarize 0.4 8, invert 0.6 4 rotate 0.8 4,
    shear_y 0.3 7 translate_x 0.9 3, shear_x 0.1 6 invert 0.6 5, solarize 0.7 2 translate_y 0.6 7,
    shear_y 0.8 4 invert 0.8 8, shear_x 0.7 9 translate_y 0.8 3, shear_y 0.8 5 auto_contrast 0.7 3,
    shear_x 0.7 2 invert 0.1 5"""
_V0 = """
    equalize 0.8 1 shear_y 0.8 4, color 0.4 9 equalize 0.6 3, color 0.4 1 rotate 0.6 8,
    solarize 0.8 3 equalize 0.4 7, solarize 0.4 2 solarize 0.6 2, color 0.2 0 equalize 0.8 8,
    equalize 0.4 8 solarize_add 0.8 3, shear_x 0.2 9 rotate 0.6 8, color 0.6 1 equalize 1.0 2,
    invert 0.4 9 rotate 0.6 0, equalize 1.0 9 shear_y 0.6 3, color 0.4 7 equalize 0.6 0,
    posterize 0.4 6 auto_contrast 0.4 7, solarize 0.6 8 color 0.6 9, solarize 0.2 4 rotate 0.8 9,
    rotate 1.0 7 translate_y 0.8 9, shear_x 0.0 0 solarize 0.8 4, shear_y 0.8 0 color 0.6 4,
    color 1.0 0 rotate 0.6 2, equalize 0.8 4 equalize 0.0 8, equalize 1.0 4 auto_contrast 0.6 2,
    shear_y 0.4 7 solarize_add 0.6 7, posterize 0.8 2 solarize 0.6 10,
    solarize 0.6 8 equalize 0.6 1, color 0.8 6 rotate 0.4 5"""

# The argument of an operation, (magnitude, side of the image in pixels) -> (base, spread): it is
# base + spread or base - spread, with equal probability. Magnitudes may be arrays.
Reading = dict[str, Callable]


def _signed(most: float, levels: float) -> Callable:
    return lambda magnitude, side: (0 * magnitude, magnitude * most / levels)


def _signed_relative(most: float, levels: float) -> Callable:
    return lambda magnitude, side: (0 * magnitude, magnitude * most / levels * side)


def _floored(function: Callable) -> Callable:
    return lambda magnitude, side: (function(magnitude, side) // 1, 0 * magnitude)


def _nothing(magnitude, side):
    return 0 * magnitude, 0 * magnitude


_PLAIN = dict.fromkeys(('auto_contrast', 'invert', 'equalize'), _nothing)
_FACTORS = ('color', 'contrast', 'brightness', 'sharpness')
_AXES = ('x', 'y')

_PAPER: Reading = {
    **_PLAIN,
    **{f'shear_{axis}': _signed(0.3, 9) for axis in _AXES},
    **{f'translate_{axis}': lambda m, side: (0, m * 150 / 331 * side / 9 // 1) for axis in _AXES},
    'rotate': _signed(30, 9),
    **{name: lambda m, side: (1, m * 0.9 / 9) for name in _FACTORS},
    'posterize': lambda m, side: (8 - round(m * 4 / 9), 0),
    'solarize': lambda m, side: (255 - m * 255 / 9, 0),
}
_CODE: Reading = {
    **_PLAIN,
    **{f'shear_{axis}': _signed(0.3, 10) for axis in _AXES},
    **{f'translate_{axis}': _signed_relative(0.45, 10) for axis in _AXES},
    'rotate': _signed(30, 10),
    **{name: lambda m, side: (m * 1.8 / 10 + 0.1, 0 * m) for name in _FACTORS},
    'posterize': _floored(lambda m, side: m * 4 / 10),
    'solarize': _floored(lambda m, side: m * 256 / 10),
    'solarize_add': _floored(lambda m, side: m * 110 / 10),
    'cutout': _floored(lambda m, side: m * 40 / 224 * side / 10),
}
_INCREASING: Reading = {
    **{name: reading for name, reading in _CODE.items() if name != 'cutout'},
    **{name: lambda m, side: (1 + 0 * m, m * 0.9 / 10) for name in _FACTORS},
    'posterize': lambda m, side: (4 - m * 4 / 10 // 1, 0 * m),
    'solarize': lambda m, side: (256 - m * 256 / 10 // 1, 0 * m),
}

LEVELS = 30  # the largest level of TrivialAugment
_WIDE: Reading = {
    **dict.fromkeys(('identity', 'auto_contrast', 'equalize'), _nothing),
    **{f'shear_{axis}': _signed(0.99, LEVELS) for axis in _AXES},
    **{f'translate_{axis}': lambda m, side: (0 * m, m * 32 / LEVELS // 1) for axis in _AXES},
    'rotate': _signed(135, LEVELS),
    **{name: lambda m, side: (1 + 0 * m, m * 0.99 / LEVELS) for name in _FACTORS},
    'posterize': lambda m, side: (8 - (m / 5 + 0.5) // 1, 0 * m),
    'solarize': lambda m, side: (255 - m * 255 / LEVELS, 0 * m),
}

TABLES = {
    'autoaugment_imagenet': (_IMAGENET, _PAPER),
    'autoaugment_cifar10': (_CIFAR10, _PAPER),
    'autoaugment_svhn': (_SVHN, _PAPER),
    'autoaugment_v0': (_V0, _CODE),
}
RANDOM = {'randaugment': (_CODE, 1.0), 'randaugment_increasing': (_INCREASING, 0.5)}
TRIVIAL = 'trivialaugment'
POLICIES = (*TABLES, *RANDOM, TRIVIAL)


def sub_policies(policy: str) -> list[list[tuple[str, float, int]]]:
    """Returns the 25 sub-policies of a policy of TABLES.

    Each is a list of two (operation, probability, magnitude).
    """
    rows = [row.split() for row in TABLES[policy][0].split(',')]
    return [[(r[i], float(r[i + 1]), int(r[i + 2])) for i in (0, 3)] for r in rows]


def arrays(policy: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the operations and arguments of a policy.

    Args:
      policy: a key of TABLES.
      shape: shape of the images, (N, H, W, C).

    Returns:
      Indices of OPERATIONS, int32 (25, 2), and base and spread of the arguments, float32
      (25, 2, 2).
    """
    rows, reading = sub_policies(policy), TABLES[policy][1]
    operations = [[OPERATIONS.index(name) for name, _, _ in row] for row in rows]
    arguments = [[_argument(reading, name, m, shape) for name, _, m in row] for row in rows]
    return np.array(operations, np.int32), np.array(arguments, np.float32)


def auto_augment(images: jax.Array, keys: jax.Array, policy: str) -> jax.Array:
    """Returns images after a random sub-policy each.

    Args:
      images: uint8 (N, H, W, C).
      keys: (N,), one for each image.
      policy: a key of TABLES.
    """
    rows = sub_policies(policy)
    chances = jnp.array([[chance for _, chance, _ in row] for row in rows])
    operations, arguments = map(jnp.array, arrays(policy, images.shape))
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (5,)))(keys)
    row = jnp.int32(uniform[:, 0] * len(rows))
    operation = jnp.where(uniform[:, 1:3] < chances[row], operations[row], 0)
    base, spread = jnp.moveaxis(arguments[row], -1, 0)
    argument = base + spread * jnp.where(uniform[:, 3:] < 0.5, -1, 1)
    centers = jnp.zeros((*operation.shape, 2))  # unused: no table has a cutout
    names = {name for row in rows for name, _, _ in row}
    return operate_in_turn(images, operation, argument, centers, names)


def rand_augment(
    images: jax.Array, keys: jax.Array, policy: str, layers: int, magnitude: float, std: float
) -> jax.Array:
    """Returns images after `layers` random operations each, drawn with replacement.

    Args:
      images: uint8 (N, H, W, C).
      keys: (N,), one for each image.
      policy: a key of RANDOM.
      layers: number of operations on an image.
      magnitude: out of 10; with `std`, its mean.
      std: standard deviation of a normal distribution of the magnitude, clipped to 0..10; 0: all
        magnitudes are `magnitude`.
    """
    reading, chance = RANDOM[policy]
    names = tuple(reading)
    indices = jnp.array([OPERATIONS.index(name) for name in names])

    uniform = jax.vmap(lambda key: jax.random.uniform(key, (layers, 6)))(keys)
    choice, applied, level, sign, *center = jnp.moveaxis(uniform, (2, 1), (0, 1))  # (layers, N)
    choice = jnp.int32(choice * len(names))
    if std:
        level = jnp.clip(magnitude + std * jax.scipy.special.ndtri(level), 0, 10)
    else:
        level = jnp.full_like(level, magnitude)
    argument = _drawn(reading, choice, level, sign, images.shape)
    operation = jnp.where(applied < chance, indices[choice], 0)
    centers = jnp.stack(center, -1).swapaxes(0, 1)
    return operate_in_turn(images, operation.T, argument.T, centers, set(names))


def trivial_augment(images: jax.Array, keys: jax.Array) -> jax.Array:
    """Returns images after one random operation each.

    Args:
      images: uint8 (N, H, W, C).
      keys: (N,), one for each image.
    """
    names = tuple(_WIDE)
    indices = jnp.array([OPERATIONS.index(name) for name in names])
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (3,)))(keys)
    choice, level, sign = jnp.moveaxis(uniform, 1, 0)
    choice, level = jnp.int32(choice * len(names)), jnp.floor(level * (LEVELS + 1))
    argument = _drawn(_WIDE, choice, level, sign, images.shape)
    operation, centers = indices[choice], jnp.zeros((len(images), 1, 2))  # unused: no cutout
    used = set(names) - {'identity'}
    return operate_in_turn(images, operation[:, None], argument[:, None], centers, used, fill=0)


def _drawn(
    reading: Reading, choice: jax.Array, level: jax.Array, sign: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Returns the arguments of chosen operations, an index in `reading` each, of any shape.

    Args:
      reading: the operations.
      choice: int32, the chosen operations.
      level: their magnitudes.
      sign: uniform in 0..1; below 1/2 the spread is subtracted.
      shape: shape of the images.
    """
    pairs = [_argument(reading, name, level, shape) for name in reading]
    base, spread = (
        jnp.take_along_axis(jnp.stack(x), choice[None], 0)[0] for x in zip(*pairs, strict=True)
    )
    return base + spread * jnp.where(sign < 0.5, -1, 1)


def _argument(reading: Reading, name: str, magnitude, shape: tuple[int, ...]) -> tuple:
    """Returns base and spread of an argument, see Reading."""
    return reading[name](magnitude, shape[1] if name.endswith('_y') else shape[2])

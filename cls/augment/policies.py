"""AutoAugment and RandAugment: which operation, and how much of it, each image of a batch gets.

AutoAugment (Cubuk et al., CVPR 2019, arXiv:1805.09501): an image draws one of 25 sub-policies;
each of its two operations is applied with its probability, at its magnitude, 0..9. The tables of
ImageNet, CIFAR-10 ("reduced", appendix A) and SVHN are the paper's, their magnitudes read as in its
table 6: ten even steps over the range. `autoaugment_v0` is EfficientNet's released code, whose
table the paper does not have; there a magnitude is of 10, and colour, contrast, brightness and
sharpness go from 0.1 to 1.9 instead of to either side of 1.

RandAugment (Cubuk et al., NeurIPS 2020, arXiv:1909.13719): `layers` operations, each drawn evenly,
all at the same magnitude of 10. `randaugment` is the released code: 16 operations, of which
posterize and solarize are the weaker, and the factors grow, with the magnitude.
`randaugment_increasing` is timm's 'rand-mM-nN-mstdS-inc1': 15 operations (without cutout) that all
grow stronger, each applied with probability 1/2, at a magnitude that is normally distributed.

Translations are parts of the image's side (at most 0.45, as timm's, which is the released code's
100 pixels of 224), and so is RandAugment's cutout (at most 40 of 224, half its side). Pixels are
taken from the nearest, from outside the image gray, as in the released code.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cls.augment.operations import OPERATIONS, operate

# (operation, probability, magnitude), twice in a sub-policy.
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

# An operation's argument at a magnitude, for an image of some side in pixels: what it is about,
# and how far it lies from that, to either side by even chances. They compute with arrays too.
Reading = dict[str, Callable]


def _signed(most: float, of: float) -> Callable:
    return lambda magnitude, side: (0 * magnitude, magnitude * most / of)


def _signed_part(most: float, of: float) -> Callable:
    return lambda magnitude, side: (0 * magnitude, magnitude * most / of * side)


def _whole(function: Callable) -> Callable:
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
    **{f'translate_{axis}': _signed_part(0.45, 10) for axis in _AXES},
    'rotate': _signed(30, 10),
    **{name: lambda m, side: (m * 1.8 / 10 + 0.1, 0 * m) for name in _FACTORS},
    'posterize': _whole(lambda m, side: m * 4 / 10),
    'solarize': _whole(lambda m, side: m * 256 / 10),
    'solarize_add': _whole(lambda m, side: m * 110 / 10),
    'cutout': _whole(lambda m, side: m * 40 / 224 * side / 10),
}
_INCREASING: Reading = {
    **{name: reading for name, reading in _CODE.items() if name != 'cutout'},
    **{name: lambda m, side: (1 + 0 * m, m * 0.9 / 10) for name in _FACTORS},
    'posterize': lambda m, side: (4 - m * 4 / 10 // 1, 0 * m),
    'solarize': lambda m, side: (256 - m * 256 / 10 // 1, 0 * m),
}

TABLES = {
    'autoaugment_imagenet': (_IMAGENET, _PAPER),
    'autoaugment_cifar10': (_CIFAR10, _PAPER),
    'autoaugment_svhn': (_SVHN, _PAPER),
    'autoaugment_v0': (_V0, _CODE),
}
RANDOM = {'randaugment': (_CODE, 1.0), 'randaugment_increasing': (_INCREASING, 0.5)}
POLICIES = (*TABLES, *RANDOM)


def sub_policies(policy: str) -> list[list[tuple[str, float, int]]]:
    """Returns the rows of a policy of TABLES: twice (operation, probability, magnitude)."""
    rows = [row.split() for row in TABLES[policy][0].split(',')]
    return [[(r[i], float(r[i + 1]), int(r[i + 2])) for i in (0, 3)] for r in rows]


def arrays(policy: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a policy of TABLES for images of a shape.

    Returns:
      The operations, int32 (25, 2); what their arguments are about and how far from it, float32
      (25, 2, 2).
    """
    rows, reading = sub_policies(policy), TABLES[policy][1]
    operations = [[OPERATIONS.index(name) for name, _, _ in row] for row in rows]
    arguments = [[_argument(reading, name, m, shape) for name, _, m in row] for row in rows]
    return np.int32(operations), np.float32(arguments)


def auto_augment(images: jax.Array, keys: jax.Array, policy: str) -> jax.Array:
    """Applies to each image one sub-policy, both of whose operations have their chances.

    Args:
      images: uint8 (N, H, W, C).
      keys: (N,), one for each image.
      policy: of TABLES.
    """
    rows = sub_policies(policy)
    chances = jnp.array([[chance for _, chance, _ in row] for row in rows])
    operations, arguments = map(jnp.array, arrays(policy, images.shape))
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (5,)))(keys)
    row = jnp.int32(uniform[:, 0] * len(rows))
    operation = jnp.where(uniform[:, 1:3] < chances[row], operations[row], 0)
    about, spread = jnp.moveaxis(arguments[row], -1, 0)
    argument = about + spread * jnp.where(uniform[:, 3:] < 0.5, -1, 1)
    nowhere = jnp.zeros((*operation.shape, 2))  # no table has a cutout
    known = {name for row in rows for name, _, _ in row}
    return _in_turn(images, operation.T, argument.T, nowhere.swapaxes(0, 1), known)


def rand_augment(
    images: jax.Array, keys: jax.Array, policy: str, layers: int, magnitude: float, std: float
) -> jax.Array:
    """Applies to each image `layers` operations, drawn with replacement.

    Args:
      images: uint8 (N, H, W, C).
      keys: (N,), one for each image.
      policy: of RANDOM.
      layers: operations on an image.
      magnitude: of 10.
      std: of a normal distribution of the magnitude, which is then kept in 0..10; 0: none.
    """
    reading, chance = RANDOM[policy]
    names = tuple(reading)
    indices = jnp.array([OPERATIONS.index(name) for name in names])

    uniform = jax.vmap(lambda key: jax.random.uniform(key, (layers, 6)))(keys)
    choice, applied, level, sign, *centre = jnp.moveaxis(uniform, (2, 1), (0, 1))  # (layers, N)
    choice = jnp.int32(choice * len(names))
    if std:
        level = jnp.clip(magnitude + std * jax.scipy.special.ndtri(level), 0, 10)
    else:
        level = jnp.full_like(level, magnitude)
    pairs = [_argument(reading, name, level, images.shape) for name in names]
    about, spread = (
        jnp.take_along_axis(jnp.stack(x), choice[None], 0)[0] for x in zip(*pairs, strict=True)
    )
    argument = about + spread * jnp.where(sign < 0.5, -1, 1)
    operation = jnp.where(applied < chance, indices[choice], 0)
    return _in_turn(images, operation, argument, jnp.stack(centre, -1), set(names))


def _in_turn(images, operations, arguments, centres, known) -> jax.Array:
    """Applies the operations along the first axis, one after the other.

    By a loop: compiled once, and none is fused into the next, which would compute it for each of
    the pixels that it reads.
    """

    def one(images, inputs):
        return operate(images, *inputs, known), None

    return jax.lax.scan(one, images, (operations, arguments, centres))[0]


def _argument(reading: Reading, name: str, magnitude, shape: tuple[int, ...]) -> tuple:
    """Returns what the argument is about, and how far from it."""
    return reading[name](magnitude, shape[1] if name.endswith('_y') else shape[2])

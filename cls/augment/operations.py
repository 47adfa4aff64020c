"""The operations of AutoAugment and RandAugment, one for each image of a batch.

They are Pillow's, on uint8. On TPUs and GPUs a batch passes one table lookup, one blend, one warp
and one mask, and each changes only the images with an operation of its kind. So the cost does not
grow with the number of operations, and no image waits for the branch of another. On CPUs each image
takes its own branch instead. Only operations that the policy contains are traced.
"""

from functools import partial

import jax
import jax.numpy as jnp

from cls.augment import warp
from cls.augment.batch import channels, column, one_by_one

GRAY = 128  # the value of pixels from outside the image (AutoAugment's released code)

# Operations that replace each of 256 values by another; the comment is the argument.
TABLES = (
    'auto_contrast',
    'invert',
    'equalize',
    'solarize',  # threshold; values from it on are inverted
    'solarize_add',  # addition to values below 128
    'posterize',  # number of upper bits that stay
    'contrast',  # factor
    'brightness',  # factor
)
BLENDS = ('color', 'sharpness')  # factor
# Shears take a factor, translations pixels, rotations degrees.
WARPS = ('shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate')
OPERATIONS = ('identity', *TABLES, *BLENDS, *WARPS, 'cutout')  # cutout: half the side, in pixels


def operate_in_turn(
    images: jax.Array,
    operation: jax.Array,
    argument: jax.Array,
    center: jax.Array,
    names: set[str],
    fill: int = GRAY,
) -> jax.Array:
    """Returns images after several operations each, in order.

    Args:
      images: uint8 (N, H, W, C), see `operate`.
      operation: int32 (N, L), of L layers.
      argument: float32 (N, L).
      center: float32 (N, L, 2).
      names: names of the operations that can occur.
      fill: the value of pixels from outside the image.

    Returns:
      uint8 (N, H, W, C).
    """
    used = sorted(names)
    alone = [partial(operate, names={name}, fill=fill) for name in used]
    branches = [lambda images, *_: images, *alone]
    branch_of = jnp.array([used.index(name) + 1 if name in names else 0 for name in OPERATIONS])

    def branch(images, operation, argument, center):
        chosen = branch_of[operation[0]]
        return jax.lax.switch(chosen, branches, images, operation, argument, center)

    def in_turn(step, images, *inputs):
        # In a loop, an operation is compiled only once and not fused into the next, where it would
        # be recomputed for every pixel that is read.
        layers = [jnp.swapaxes(x, 0, 1) for x in inputs]
        return jax.lax.scan(lambda x, layer: (step(x, *layer), None), images, layers)[0]

    together = partial(in_turn, partial(operate, names=names, fill=fill))
    return one_by_one(partial(in_turn, branch), together, images, operation, argument, center)


def operate(
    images: jax.Array,
    operation: jax.Array,
    argument: jax.Array,
    center: jax.Array,
    names: set[str],
    fill: int = GRAY,
) -> jax.Array:
    """Returns images after an operation each.

    Args:
      images: uint8 (N, H, W, C), C 1 or 3; `color` does not change images of one channel.
      operation: int32 (N,), indices of OPERATIONS.
      argument: float32 (N,), see OPERATIONS.
      center: float32 (N, 2) in 0..1, the row and column of cutout's center.
      names: names of the operations that can occur.
      fill: the value of pixels from outside the image, except for cutout.

    Returns:
      uint8 (N, H, W, C).
    """

    def chosen(name: str) -> jax.Array:
        return operation == OPERATIONS.index(name)

    if names & set(TABLES):
        tables = _tables(images, chosen, argument, names & set(TABLES))
        # Fused into the lookup, a table would be computed again for every pixel.
        images = look_up(images, jax.lax.optimization_barrier(tables))
    if names & set(BLENDS):
        images = _blends(images, chosen, argument, names & set(BLENDS))
    if names & set(WARPS):
        matrix = _matrices(images, chosen, argument, names & set(WARPS))
        images = warp.nearest(images, matrix, fill)
    if 'cutout' in names:
        size = jnp.array(images.shape[1:3])
        middle = jnp.int32(jnp.floor(center * size))
        square = box(images.shape, middle, jnp.int32(argument))
        images = jnp.where(square & column(chosen('cutout')), jnp.uint8(GRAY), images)
    return images


def box(shape: tuple[int, ...], center: jax.Array, half: jax.Array) -> jax.Array:
    """Returns masks of the squares from center - half to center + half (excluded).

    Args:
      shape: shape of the images.
      center: int32 (N, 2), row and column.
      half: half the side in pixels, int32, one number or (N,).

    Returns:
      bool (N, H, W, 1).
    """
    rows, columns = (
        jnp.abs(2 * (jnp.arange(size) - center[:, i, None]) + 1)
        <= jnp.reshape(2 * half - 1, (-1, 1))
        for i, size in enumerate(shape[1:3])
    )
    return (rows[:, :, None] & columns[:, None])[..., None]


def gray(images: jax.Array) -> jax.Array:
    """Returns Pillow's luminance of integers (N, H, W, C), int32 (N, H, W, 1)."""
    images = jnp.int32(images)
    if images.shape[-1] == 1:
        return images
    red, green, blue = channels(images)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def blend(one: jax.Array | float, other: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns one + factor * (other - one), clipped to 0..255 and rounded down, float32."""
    one, other = jnp.float32(one), jnp.float32(other)
    return jnp.floor(jnp.clip(one + factor * (other - one), 0, 255))


def histogram(images: jax.Array) -> jax.Array:
    """Returns the counts of values, int32 (N, C, 256), in uint8 images (N, H, W, C)."""
    n, _, _, depth = images.shape
    values = images.reshape(n, -1, depth)

    def scattered(values):
        image = jnp.arange(n)[:, None, None]
        index = (image * depth + jnp.arange(depth)) * 256 + values  # in one axis: twice as fast
        counts = jnp.zeros(n * depth * 256, jnp.int32)
        counts = counts.at[index.ravel()].add(1, mode='promise_in_bounds')
        return counts.reshape(n, depth, 256)

    def multiplied(values):
        high, low = _nibbles(values)
        table = jnp.einsum('npci,npcj->ncij', high, low, preferred_element_type=jnp.float32)
        return jnp.int32(table.reshape(n, depth, 256))

    return jax.lax.platform_dependent(values, tpu=multiplied, default=scattered)


def look_up(images: jax.Array, tables: jax.Array) -> jax.Array:
    """Returns images with each value v of channel c replaced by tables[n, c, v].

    Args:
      images: uint8 (N, H, W, C).
      tables: (N, C, 256), integers in 0..255.
    """
    n, _, _, depth = images.shape
    values = images.reshape(n, -1, depth)

    def gathered(values, tables):
        return jnp.take_along_axis(tables.swapaxes(1, 2), jnp.int32(values), axis=1)

    def multiplied(values, tables):
        high, low = _nibbles(values)
        rows = tables.astype(jnp.bfloat16).reshape(n, depth, 16, 16)
        chosen = jnp.einsum('npci,ncij->npcj', high, rows)
        return jnp.sum(chosen * low, -1).astype(jnp.uint8)

    tables = jnp.uint8(tables)
    replaced = jax.lax.platform_dependent(values, tables, tpu=multiplied, default=gathered)
    return replaced.reshape(images.shape)


def _nibbles(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns one-hot rows of the upper and the lower four bits, bfloat16, for matrix products.

    TPUs are slow to scatter and gather. Integers up to 256 are exact in bfloat16.
    """
    high, low = (jax.nn.one_hot(x, 16, dtype=jnp.bfloat16) for x in (values >> 4, values & 15))
    return high, low


def _tables(images, chosen, argument, names) -> jax.Array:
    """Returns the replacement of each value, (N, C, 256) float32."""
    n, _, _, depth = images.shape
    values = jnp.broadcast_to(jnp.arange(256.0), (n, depth, 256))
    argument = argument[:, None, None]
    mean = jnp.floor(gray(images).mean((1, 2)) + 0.5)[:, None]
    integers = jnp.int32(values)
    step = 8 - jnp.clip(jnp.int32(argument), 0, 8)
    makers = {
        'auto_contrast': lambda: _auto_contrast(images, integers),
        'invert': lambda: 255 - values,
        'equalize': lambda: _equalize(histogram(images), integers),
        'solarize': lambda: jnp.where(values < argument, values, 255 - values),
        'solarize_add': lambda: jnp.where(
            values < 128, jnp.clip(values + argument, 0, 255), values
        ),
        'posterize': lambda: (integers >> step) << step,
        'contrast': lambda: blend(mean, values, argument),
        'brightness': lambda: blend(0, values, argument),
    }
    table = values
    for name in sorted(names):
        table = jnp.where(chosen(name)[:, None, None], makers[name](), table)
    return table


def _auto_contrast(images: jax.Array, values: jax.Array) -> jax.Array:
    """Returns values stretched so that each channel of an image covers 0..255."""
    low, high = (jnp.int32(f(images, (1, 2)))[..., None] for f in (jnp.min, jnp.max))
    stretched = (values - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), values)


def _equalize(counts: jax.Array, values: jax.Array) -> jax.Array:
    """Returns values mapped to Pillow's equalized histogram."""
    last = 255 - jnp.argmax(counts[..., ::-1] > 0, -1, keepdims=True)
    in_last = jnp.take_along_axis(counts, last, -1)
    step = (counts.sum(-1, keepdims=True) - in_last) // 255
    before = jnp.cumsum(counts, -1) - counts
    spread = (before + step // 2) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.clip(spread, 0, 255), values)


def _blends(images, chosen, argument, names) -> jax.Array:
    """Returns images blended with their gray or smoothed versions."""
    other, factor = images, jnp.ones_like(argument)
    degenerate = {'color': gray, 'sharpness': _smooth}
    for name in sorted(names):
        selected = chosen(name)
        other = jnp.where(column(selected), degenerate[name](images), other)
        factor = jnp.where(selected, argument, factor)
    return jnp.uint8(blend(other, images, column(factor)))


def _smooth(images: jax.Array) -> jax.Array:
    """Returns Pillow's SMOOTH: weight 5 for a pixel, 1 for its neighbors; the border stays."""
    x = jnp.int16(images)
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    weighed = around + 4 * x[:, 1:-1, 1:-1] + 6  # 6 / 13: rounds to the nearest
    inner = (jnp.int32(weighed) * 5042) >> 16  # weighed // 13 for all up to 13 * 255 + 6
    return images.at[:, 1:-1, 1:-1].set(jnp.uint8(inner))


def _matrices(images, chosen, argument, names) -> jax.Array:
    """Returns the matrices (N, 6) of warps, see `cls.augment.warp`."""
    matrix = jnp.broadcast_to(jnp.array(warp.IDENTITY), (len(images), 6))
    entry = {'shear_x': 1, 'shear_y': 3, 'translate_x': 2, 'translate_y': 5}
    for name in sorted(names):
        if name == 'rotate':
            other = warp.rotation(argument, *images.shape[1:3])
        else:
            other = jnp.array(warp.IDENTITY) + argument[:, None] * jax.nn.one_hot(entry[name], 6)
        matrix = jnp.where(chosen(name)[:, None], other, matrix)
    return matrix

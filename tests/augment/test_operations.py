"""All operations of the policies against Pillow's, on images of several kinds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from cls.augment import operations
from cls.augment.operations import OPERATIONS, operate, operate_in_turn


def images(channels=3, size=24):
    """Returns noise, a smooth picture, few levels, one level, a narrow range, and outliers."""
    rng = np.random.default_rng(0)
    shape = (size, size, channels)
    y, x, c = np.meshgrid(*map(np.arange, shape), indexing='ij')
    return np.stack(
        [
            rng.integers(256, size=shape),
            (7 * x + 3 * y * c + 40 * c) % 256,
            rng.integers(3, size=shape) * 90 + 20,
            np.full(shape, 77),
            rng.integers(100, 140, size=shape),
            np.where(rng.uniform(size=shape) < 0.9, 200, rng.integers(256, size=shape)),
        ]
    ).astype(np.uint8)


def enhanced(kind):
    return lambda image, factor: getattr(ImageEnhance, kind)(image).enhance(factor)


def transformed(entry):
    def function(image, value):
        matrix = [1, 0, 0, 0, 1, 0]
        matrix[entry] += value
        fill = (128,) * len(image.getbands())
        fill = fill if len(fill) > 1 else 128
        return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=fill)

    return function


def rotated(image, degrees):
    return image.rotate(degrees, fillcolor=(128,) * 3 if image.mode == 'RGB' else 128)


def added(image, addition):
    return image.point(
        [min(255, i + addition) if i < 128 else i for i in range(256)] * len(image.getbands())
    )


CASES = [
    ('identity', 0, lambda image, _: image),
    ('auto_contrast', 0, lambda image, _: ImageOps.autocontrast(image)),
    ('invert', 0, lambda image, _: ImageOps.invert(image)),
    ('equalize', 0, lambda image, _: ImageOps.equalize(image)),
    *[('solarize', value, ImageOps.solarize) for value in (0, 113.3, 256)],
    *[('solarize_add', value, added) for value in (0, 40, 110)],
    *[('posterize', value, ImageOps.posterize) for value in (1, 4, 8)],
    *[('contrast', value, enhanced('Contrast')) for value in (0.1, 0.73, 1.9)],
    *[('color', value, enhanced('Color')) for value in (0.1, 0.73, 1.9)],
    *[('brightness', value, enhanced('Brightness')) for value in (0.1, 0.73, 1.9)],
    *[('sharpness', value, enhanced('Sharpness')) for value in (0.1, 0.73, 1.9)],
    *[('shear_x', value, transformed(1)) for value in (-0.3, 0.17)],
    *[('shear_y', value, transformed(3)) for value in (-0.3, 0.17)],
    *[('translate_x', value, transformed(2)) for value in (-3, 8.3)],
    *[('translate_y', value, transformed(5)) for value in (-3, 8.3)],
    *[('rotate', value, rotated) for value in (-30, 11.7)],
]


@functools.cache
def compiled():
    """Returns the program of all operations, as in RandAugment."""
    return jit(functools.partial(operate, names=set(OPERATIONS[1:])))


def ours(batch, name, argument, center=(0.5, 0.5)):
    n = len(batch)
    operation = jnp.full(n, OPERATIONS.index(name))
    center = jnp.tile(jnp.array(center, jnp.float32), (n, 1))
    return np.asarray(compiled()(batch, operation, jnp.full(n, argument, jnp.float32), center))


@pytest.mark.parametrize('channels', [pytest.param(1, marks=pytest.mark.sweep), 3])
@pytest.mark.parametrize(('name', 'argument', 'reference'), CASES)
def test_an_operation_is_pillows(name, argument, reference, channels):
    batch = images(channels)
    result = ours(batch, name, argument)
    pictures = [Image.fromarray(x if channels == 3 else x[..., 0]) for x in batch]
    expected = np.stack([np.asarray(reference(x, argument)) for x in pictures]).reshape(batch.shape)
    assert result.dtype == np.uint8
    difference = np.abs(result.astype(int) - expected)
    if name in operations.WARPS:  # sources at the border of two pixels may round either way
        assert (difference > 0).mean() < 0.005
    else:  # so may integers
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01
    if name != 'identity' and argument not in (8, 256):
        changes = (expected != batch).any()
        assert changes or (name, channels) == ('color', 1) or argument == 0


def test_the_smoothed_image_is_pillows():
    batch = images()
    expected = [np.asarray(Image.fromarray(x).filter(ImageFilter.SMOOTH)) for x in batch]
    np.testing.assert_array_equal(ours(batch, 'sharpness', 0.0), expected)


def test_each_image_has_its_own_operation():
    batch = np.repeat(images()[:1], 6, 0)
    argument, center = np.where(np.arange(len(OPERATIONS)) > 15, 5, 0.5), jnp.full((6, 2), 0.5)
    for first in (0, 6, len(OPERATIONS) - 6):
        operation = np.arange(first, first + 6)
        mixed = compiled()(batch, operation, np.float32(argument[operation]), center)
        for image, i in zip(mixed, operation, strict=True):
            expected = ours(batch, OPERATIONS[i], argument[i])[0]
            np.testing.assert_array_equal(image, expected)


def test_cutout_is_a_gray_square_cropped_at_the_border():
    batch = images(size=24)
    expected = batch.copy()
    expected[:, 9:15, 0:5] = 128  # center: row 12, column 2; half a side: 3
    np.testing.assert_array_equal(ours(batch, 'cutout', 3, (0.5, 2.4 / 24)), expected)


def test_both_forms_of_counting_and_looking_up_agree(monkeypatch):
    """TPUs multiply matrices, and other platforms scatter and gather."""
    batch = jnp.asarray(images())
    tables = np.random.default_rng(1).integers(256, size=(len(batch), 3, 256))

    def run():
        both = jit(lambda x, t: (operations.histogram(x), operations.look_up(x, t)))
        return both(batch, jnp.asarray(tables))

    plain = run()
    monkeypatch.setattr(jax.lax, 'platform_dependent', lambda *args, tpu, default: tpu(*args))
    jax.tree.map(np.testing.assert_array_equal, plain, run())
    counts = [np.bincount(x.ravel(), minlength=256) for x in np.moveaxis(batch[0], -1, 0)]
    np.testing.assert_array_equal(plain[0][0], counts)
    np.testing.assert_array_equal(
        plain[1][0],
        np.stack([t[x] for t, x in zip(tables[0], np.moveaxis(batch[0], -1, 0), strict=True)], -1),
    )


def drawn(n, layers):
    """Returns the operations (n, layers), their arguments and centers, of n images."""
    rng = np.random.default_rng(2)
    operation = rng.integers(len(OPERATIONS), size=(n, layers))
    argument = np.where(operation > 15, 5, rng.uniform(0.1, 0.9, size=operation.shape))
    return operation, np.float32(argument), np.float32(rng.uniform(size=(n, layers, 2)))


def test_operations_are_applied_in_order_to_each_image_alone():
    """On a CPU, images take their branches in a loop; `operate` computes on the whole batch."""
    batch = np.tile(images(), (8, 1, 1, 1))
    operation, argument, center = drawn(len(batch), 3)
    run = jit(functools.partial(operate_in_turn, names=set(OPERATIONS[1:])))
    expected = batch
    for i in range(3):
        expected = compiled()(expected, operation[:, i], argument[:, i], center[:, i])
    np.testing.assert_array_equal(run(batch, operation, argument, center), expected)


def test_only_programs_for_cpus_have_loops_over_images():
    batch = np.tile(images(), (2, 1, 1, 1))
    operate = functools.partial(operate_in_turn, names={'rotate', 'equalize'})
    traced = jax.jit(operate).trace(batch, *drawn(len(batch), 2))
    loops = {
        name: traced.lower(lowering_platforms=(name,)).as_text().count('stablehlo.while')
        for name in ('cpu', 'tpu', 'cuda')
    }
    assert loops == {'cpu': 2, 'tpu': 1, 'cuda': 1}  # over images, and over layers


def test_a_larger_batch_needs_no_more_memory_than_for_its_images():
    def temporary(n):
        batch = np.zeros((n, 64, 64, 3), np.uint8)
        run = jax.jit(functools.partial(operate_in_turn, names={'equalize', 'color', 'rotate'}))
        return run.lower(batch, *drawn(n, 2)).compile().memory_analysis().temp_size_in_bytes

    few, many = temporary(4), temporary(36)
    assert many - few < 1.5 * 32 * 64 * 64 * 3

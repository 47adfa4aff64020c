"""Resizing against Pillow and TensorFlow."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from golden.make_real import REAL
from PIL import Image
from sklearn.datasets import load_sample_image

from cls.data import transforms
from cls.data.decode import picture
from cls.data.resize import INTERPOLATIONS, Resized, resize, shorter_to

TENSORFLOW = Path(__file__).with_name('tensorflow.npz')  # see make_tensorflow.py


@pytest.fixture(scope='module')
def photo():
    return Image.fromarray(load_sample_image('flower.jpg'))  # (427, 640, 3)


def photographs(count):
    """Yields images of many sizes with smooth parts, edges and noise, in gray and in color."""
    rng = np.random.default_rng(0)
    for number in range(count):
        channels = 1 if number % 4 == 3 else 3
        height, width = rng.integers(40, 700, 2)
        coarse = rng.integers(256, size=(3 + number % 9, 4 + number % 7, channels), dtype=np.uint8)
        edges = (cv2.INTER_CUBIC, cv2.INTER_NEAREST)[number % 2]
        image = cv2.resize(coarse, (int(width), int(height)), interpolation=edges)
        noise = rng.normal(0, 4 * (number % 3), (height, width, 1))
        image = image.reshape(height, width, channels)
        yield np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def of_pillow(image, size, interpolation, box=None):
    """Returns (*size, C) resized by Pillow from an image or a box (left, top, right, bottom)."""
    opened = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    resized = opened.resize(size[::-1], getattr(Image.Resampling, interpolation.upper()), box)
    return np.asarray(resized).reshape(*size, image.shape[2])


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic', 'nearest'])
def test_bytes_are_pillows(interpolation):
    """Many images, reduced and enlarged, with the same and with another aspect ratio."""
    for number, image in enumerate(photographs(60)):
        for size in (shorter_to(image.shape[:2], (256, 64, 480)[number % 3]), (224, 224)):
            np.testing.assert_array_equal(
                resize(image, *size, interpolation), of_pillow(image, size, interpolation)
            )


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic', 'nearest'])
def test_windows_are_those_of_the_whole(interpolation):
    """Windows without the whole image are equal to the bit: enlarged and reduced, on both axes."""
    rng = np.random.default_rng(0)
    for number in range(60):
        short, long = int(rng.integers(1, 40)), int(rng.integers(400, 2500))
        shape = (long, short) if number % 2 else (short, long)
        image = rng.integers(256, size=(*shape, (1, 3)[number % 3 > 0]), dtype=np.uint8)
        to = shorter_to(shape, int(rng.integers(1, 30 if long > 40 * short else 80)))
        expected = of_pillow(image, to, interpolation)
        size = [int(min(side, rng.integers(1, 20))) for side in to]
        corner = [int(rng.integers(side - part + 1)) for side, part in zip(to, size, strict=True)]
        resized = Resized(image, to, interpolation)
        got = resized.window(*corner, *size)
        assert resized._whole is None or to[0] * to[1] <= 32 * size[0] * size[1]
        y, x = (slice(low, low + part) for low, part in zip(corner, size, strict=True))
        np.testing.assert_array_equal(got, expected[y, x])


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_only_windows_are_those_of_the_whole(interpolation):
    """The center, smaller than 60 % of the whole and larger, as evaluation crops it."""
    for number, image in enumerate(photographs(30)):
        to = shorter_to(image.shape[:2], (256, 64, 480)[number % 3])
        size = min(to) - 12 * (number % 5)
        top, left = ((side - size) // 2 for side in to)
        got = Resized(image, to, interpolation).only_window(top, left, size, size)
        expected = of_pillow(image, to, interpolation)[top : top + size, left : left + size]
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('interpolation', ['tf_bilinear', 'tf_bicubic'])
def test_windows_by_tensorflows_filters(interpolation):
    image = np.random.default_rng(0).integers(256, size=(900, 12, 3), dtype=np.uint8)
    for to in ((3750, 50), (450, 6)):
        whole = resize(image, *to, interpolation).astype(int)
        got = Resized(image, to, interpolation).window(to[0] // 2, 1, 5, 4)
        expected = whole[to[0] // 2 : to[0] // 2 + 5, 1:5]
        assert abs(got - expected).max() <= (1 if interpolation == 'tf_bilinear' else 0)


@pytest.mark.parametrize('interpolation', INTERPOLATIONS)
@pytest.mark.parametrize('shape', [(1_000_000, 1), (1, 1_000_000), (40_000, 3)])
def test_no_more_pixels_than_the_window_has(shape, interpolation):
    """A whole resized image would have between 874 million and 65 billion pixels."""
    image = np.full((*shape, 3), 200, np.uint8)
    to = shorter_to(shape, 256)
    tracemalloc.start()
    got = Resized(image, to, interpolation).window(to[0] // 2 - 112, to[1] // 2 - 112, 224, 224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    np.testing.assert_array_equal(got, np.full((224, 224, 3), 200))


@pytest.mark.parametrize('size', [(224, 224), (256, 384), (64, 64), (427, 320)])
def test_reduce_roughly_like_pillow(photo, size):
    """Plain bilinear would differ by 1.9 to 11 levels rms here, INTER_AREA by 1.3 to 2.9."""
    height, width = size
    got = resize(np.asarray(photo), height, width, roughly=True).astype(float)
    expected = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR))
    assert got.shape == (height, width, 3)
    assert np.sqrt(np.mean((got - expected) ** 2)) < 1.0
    assert abs(got - expected).max() <= 25


def test_enlarge_roughly_like_pillow(photo):
    small = photo.resize((60, 40))
    got = resize(np.asarray(small), 130, 150, roughly=True).astype(int)
    expected = np.asarray(small.resize((150, 130), Image.Resampling.BILINEAR))
    assert abs(got - expected).max() <= 2


def test_one_channel_is_kept():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert resize(image, 4, 5).shape == (4, 5, 1)
    assert resize(image, 16, 16).shape == (16, 16, 1)
    assert resize(image, 8, 8) is image


@pytest.mark.parametrize('method', ['bilinear', 'bicubic'])
def test_like_tensorflow(method):
    stored = np.load(TENSORFLOW)
    for name in (name for name in stored.files if name.startswith(method)):
        height, width = map(int, name.split('_')[1].split('x'))
        got = resize(stored['image'], height, width, f'tf_{method}').astype(int)
        assert abs(got - stored[name]).max() <= 1, name
        assert abs(got - stored[name]).mean() < 0.3
        other = 'bicubic' if method == 'bilinear' else 'bilinear'
        assert abs(got - stored[name.replace(method, other)]).mean() > 1


@pytest.mark.parametrize(
    ('interpolation', 'roughly', 'most'),
    [('bilinear', True, 0.8), ('bilinear', False, 0), ('bicubic', False, 0)],
)
@pytest.mark.parametrize('size', [(100, 120), (300, 250)])
def test_boxes_like_pillow(photo, interpolation, roughly, most, size):
    """The edges of a box may be fractions of pixels."""
    left, top, right, bottom = 31.25, 10.5, 400.75, 300.125
    image = np.asarray(photo)
    expected = of_pillow(image, size, interpolation, (left, top, right, bottom))
    box = (top, left, bottom - top, right - left)
    got = resize(image, *size, interpolation, box, roughly=roughly).astype(int)
    assert abs(got - expected).mean() <= most


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason=f'{REAL} is not on this machine (CLS_SHARED)')
def test_real_photographs_are_evaluated_as_pillow_has_them(make_data):
    """From the file to the crop, with the arithmetic of torchvision's Resize and CenterCrop."""
    files = sorted((REAL / 'photos' / 'sample').iterdir())
    assert len(files) == 125
    files += sorted((REAL / 'photos' / 'nips17').iterdir())[::5]
    for interpolation in ('bilinear', 'bicubic'):
        crop = transforms.eval_crop(
            make_data(image_size=224, eval_resize=256, interpolation=interpolation)
        )
        for file in files:
            image = Image.open(file).convert('RGB')
            (width, height), side = image.size, 256
            size = (side, int(side * height / width)), (int(side * width / height), side)
            filter_ = getattr(Image.Resampling, interpolation.upper())
            image = image.resize(size[width > height], filter_)
            left, top = (int(round((side - 224) / 2.0)) for side in image.size)
            expected = np.asarray(image.crop((left, top, left + 224, top + 224)))
            got = crop(picture(file.read_bytes(), 3))
            np.testing.assert_array_equal(got, expected, str(file))

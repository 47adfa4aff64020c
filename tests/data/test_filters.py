"""Resizing, against Pillow and TensorFlow."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from cls.data.resize import resize

TENSORFLOW = Path(__file__).with_name('tensorflow.npz')  # see make_tensorflow.py


@pytest.fixture(scope='module')
def photo():
    return Image.fromarray(load_sample_image('flower.jpg'))  # (427, 640, 3)


@pytest.mark.parametrize('size', [(224, 224), (256, 384), (64, 64), (427, 320)])
def test_reduce_like_pillow(photo, size):
    """Here plain bilinear differs by 1.9 to 11 levels rms, INTER_AREA by 1.3 to 2.9."""
    height, width = size
    got = resize(np.asarray(photo), height, width).astype(float)
    expected = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR))
    assert got.shape == (height, width, 3)
    assert np.sqrt(np.mean((got - expected) ** 2)) < 1.0


def test_enlarge_like_pillow(photo):
    small = photo.resize((60, 40))
    got = resize(np.asarray(small), 130, 150).astype(int)
    expected = np.asarray(small.resize((150, 130), Image.Resampling.BILINEAR))
    assert abs(got - expected).max() <= 2


def test_one_channel_is_kept():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert resize(image, 4, 5).shape == (4, 5, 1)
    assert resize(image, 16, 16).shape == (16, 16, 1)
    assert resize(image, 8, 8) is image


@pytest.mark.parametrize('size', [(224, 224), (64, 64), (427, 320), (600, 700)])
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_bicubic_is_pillow(photo, size, mode):
    image = photo.convert(mode)
    pixels = np.asarray(image).reshape(427, 640, -1)
    expected = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))
    got = resize(pixels, *size, 'bicubic')
    np.testing.assert_array_equal(got, expected.reshape(*size, -1))


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


def test_bilinear_bounds(photo):
    """The largest and the mean difference of the docstring."""
    for size in ((224, 224), (256, 384), (64, 64)):
        expected = np.asarray(photo.resize(size[::-1], Image.Resampling.BILINEAR))
        difference = abs(resize(np.asarray(photo), *size).astype(int) - expected)
        assert difference.max() <= 25
        assert difference.mean() < 0.8


@pytest.mark.parametrize(('interpolation', 'most'), [('bilinear', 0.8), ('bicubic', 0)])
@pytest.mark.parametrize('size', [(100, 120), (300, 250)])
def test_boxes_like_pillow(photo, interpolation, most, size):
    """Edges of a box may lie inside of pixels."""
    left, top, right, bottom = 31.25, 10.5, 400.75, 300.125
    expected = photo.resize(
        size[::-1], getattr(Image.Resampling, interpolation.upper()), (left, top, right, bottom)
    )
    box = (top, left, bottom - top, right - left)
    got = resize(np.asarray(photo), *size, interpolation, box).astype(int)
    assert abs(got - np.asarray(expected)).mean() <= most

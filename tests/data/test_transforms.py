"""Decoding, resizing and crops, against Pillow and against their definitions."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from cls.data import transforms
from cls.errors import UserError


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope='module')
def photo():
    return Image.fromarray(load_sample_image('flower.jpg'))  # (427, 640, 3)


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'RGBA', 'LA', '1', 'CMYK', 'I;16'])
@pytest.mark.parametrize('channels', [1, 3])
def test_decode_like_pillow(photo, mode, channels):
    small = photo.resize((64, 48))
    if mode == 'I;16':
        image = Image.fromarray(np.asarray(small.convert('L')).astype(np.uint16) * 257)
        expected = small.convert('L').convert('RGB' if channels == 3 else 'L')
    else:
        image = small.convert(mode)
        expected = image.convert('RGB' if channels == 3 else 'L')
    kind = 'JPEG' if mode == 'CMYK' else 'PNG'
    got = transforms.decode(encoded(image, kind, quality=95), channels)
    if mode == 'CMYK':
        expected = Image.open(io.BytesIO(encoded(image, kind, quality=95))).convert(expected.mode)
    assert got.shape == (48, 64, channels)
    assert got.dtype == np.uint8
    difference = got.astype(int) - np.asarray(expected).reshape(got.shape)
    assert abs(difference).max() <= 2


@pytest.mark.parametrize('kind', ['JPEG', 'WEBP', 'BMP'])
def test_decode_kinds(photo, kind):
    content = encoded(photo, kind)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert('RGB')).astype(int)
    assert abs(transforms.decode(content, 3) - expected).max() <= 2


def test_orientation_is_ignored(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert transforms.decode(encoded(photo, 'JPEG', exif=exif), 3).shape == (427, 640, 3)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'BMP'])
def test_broken_images(photo, kind):
    content = encoded(photo, kind)
    for broken in (b'', b'no image', content[: len(content) // 2]):
        with pytest.raises(ValueError, match='not an image'):
            transforms.decode(broken, 3)


@pytest.mark.parametrize('size', [(224, 224), (256, 384), (64, 64), (427, 320)])
def test_reduce_like_pillow(photo, size):
    """Here plain bilinear differs by 1.9 to 11 levels rms, INTER_AREA by 1.3 to 2.9."""
    height, width = size
    got = transforms.resize(np.asarray(photo), height, width).astype(float)
    expected = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR))
    assert got.shape == (height, width, 3)
    assert np.sqrt(np.mean((got - expected) ** 2)) < 1.0


def test_enlarge_like_pillow(photo):
    small = photo.resize((60, 40))
    got = transforms.resize(np.asarray(small), 130, 150).astype(int)
    expected = np.asarray(small.resize((150, 130), Image.Resampling.BILINEAR))
    assert abs(got - expected).max() <= 2


def test_one_channel_is_kept():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert transforms.resize(image, 4, 5).shape == (4, 5, 1)
    assert transforms.resize(image, 16, 16).shape == (16, 16, 1)
    assert transforms.resize(image, 8, 8) is image


def test_center_crop(photo):
    """As torchvision's Resize(256), CenterCrop(224): 427x640 -> 256x383 -> rows 16, columns 80."""
    image = np.asarray(photo)
    resized = transforms.resize_shorter(image, 256)
    assert resized.shape == (256, 383, 3)
    crop = transforms.center_crop(image, 224, 256)
    np.testing.assert_array_equal(crop, resized[16:240, 80:304])
    turned = transforms.resize_shorter(image.transpose(1, 0, 2), 256)
    assert turned.shape == (383, 256, 3)


def coordinates(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 whose pixels tell their row and column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 255)], axis=-1).astype(np.uint8)


def test_pad(make_data):
    """Every offset occurs, equally often; what is outside the image is zero in all channels."""
    crop = transforms.train_crop(make_data(image_size=8, train_crop='pad', pad=2))
    image = coordinates(8, 8)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    counts = np.zeros((5, 5), int)
    rng = np.random.default_rng(0)
    for _ in range(2500):
        got = crop(image, rng)
        top, left = int(got[4, 4, 0]) - 2, int(got[4, 4, 1]) - 2  # the middle is always inside
        np.testing.assert_array_equal(got, padded[top : top + 8, left : left + 8])
        counts[top, left] += 1
    assert counts.min() > 60
    assert counts.max() < 140


def test_none_keeps_the_image(make_data):
    crop = transforms.train_crop(make_data(image_size=8))
    image = coordinates(8, 8)
    np.testing.assert_array_equal(crop(image, np.random.default_rng(0)), image)
    np.testing.assert_array_equal(
        crop(coordinates(8, 14), np.random.default_rng(0)), coordinates(8, 14)[:, 3:11]
    )


def test_scale_jitter(make_data, monkeypatch):
    """The shorter side takes every value of the range, and the crop every place."""
    sides = []
    resize = transforms.resize_shorter
    monkeypatch.setattr(
        transforms, 'resize_shorter', lambda image, side: sides.append(side) or resize(image, side)
    )
    crop = transforms.train_crop(make_data(image_size=8, train_crop='scale_jitter', scale=(9, 12)))
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert crop(coordinates(20, 30), rng).shape == (8, 8, 3)
    assert set(sides) == {9, 10, 11, 12}
    corners = {
        tuple(transforms.scale_jitter(coordinates(9, 10), rng, size=8, scale=(9, 9))[0, 0, :2])
        for _ in range(200)
    }
    assert corners == {(top, left) for top in (0, 1) for left in (0, 1, 2)}


def test_random_box_distribution():
    """Area uniform and log aspect uniform, where every box fits (area up to 0.5 of a square)."""
    rng = np.random.default_rng(0)
    boxes = np.array(
        [transforms.random_box((1000, 1000), rng, (0.1, 0.5), (3 / 4, 4 / 3)) for _ in range(4000)]
    )
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 1000).all() and (left + width <= 1000).all()
    area, aspect = height * width / 1e6, np.log(width / height)
    np.testing.assert_allclose(np.quantile(area, [0, 0.25, 0.5, 0.75, 1]),
                               [0.1, 0.2, 0.3, 0.4, 0.5], atol=0.01)  # fmt: skip
    limit = np.log(4 / 3)
    np.testing.assert_allclose(np.quantile(aspect, [0, 0.25, 0.5, 0.75, 1]),
                               limit * np.array([-1, -0.5, 0, 0.5, 1]), atol=0.02)  # fmt: skip
    position = top / (1000 - height)
    np.testing.assert_allclose(np.quantile(position, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75],
                               atol=0.03)  # fmt: skip


@pytest.mark.parametrize(
    ('shape', 'box'),
    [
        ((100, 1000), (0, 433, 100, 133)),  # torchvision: width 100 * 4/3, in the middle
        ((1000, 100), (433, 0, 133, 100)),
    ],
)
def test_random_box_falls_back_to_the_middle(shape, box):
    assert transforms.random_box(shape, np.random.default_rng(0), (0.9, 1.0), (3 / 4, 4 / 3)) == box


def test_random_resized(make_data):
    crop = transforms.train_crop(make_data(image_size=16, train_crop='random_resized'))
    for shape in ((40, 60), (1, 50), (50, 1), (16, 16)):
        image = crop(coordinates(*shape), np.random.default_rng(0))
        assert image.shape == (16, 16, 3)
        assert image.dtype == np.uint8


def test_same_generator_same_crop(make_data, photo):
    for name in ('pad', 'scale_jitter', 'random_resized'):
        crop = transforms.train_crop(make_data(image_size=32, train_crop=name))
        first, again, other = (
            crop(np.asarray(photo), np.random.default_rng(seed)) for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'train_crop': 'padd'}, "train_crop is 'padd'.*Did you mean pad?"),
        ({'train_crop': 'pad', 'pad': -1}, r'data.pad is -1'),
        ({'image_size': 0}, 'image_size is 0'),
        ({'train_crop': 'scale_jitter', 'scale': (16, 40)}, r'scale is \(16, 40\).*least 32'),
        ({'train_crop': 'scale_jitter', 'scale': (64, 40)}, r'scale is \(64, 40\)'),
        ({'train_crop': 'random_resized', 'area': (0.0, 1.0)}, r'area is \(0.0, 1.0\)'),
        ({'train_crop': 'random_resized', 'area': (0.5, 1.5)}, r'area is \(0.5, 1.5\).*to 1'),
        ({'train_crop': 'random_resized', 'aspect': (2.0, 1.0)}, r'aspect is \(2.0, 1.0\)'),
    ],
)
def test_train_crop_errors(make_data, fields, message):
    with pytest.raises(UserError, match=message):
        transforms.train_crop(make_data(**fields))


def test_eval_crop_errors(make_data):
    with pytest.raises(UserError, match=r'eval_resize is 16, less than the 32'):
        transforms.eval_crop(make_data(eval_resize=16))

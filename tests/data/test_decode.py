"""Decoding, against Pillow; and of JPEGs in part, against decoding in full."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from cls.data.decode import BrokenImage, Decoded, Jpeg, decode, picture, read_header
from cls.data.resize import resize


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
    got = decode(encoded(image, kind, quality=95), channels)
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
    assert abs(decode(content, 3) - expected).max() <= 2


def test_orientation_is_ignored(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert decode(encoded(photo, 'JPEG', exif=exif), 3).shape == (427, 640, 3)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'BMP'])
def test_broken_images(photo, kind):
    content = encoded(photo, kind)
    for broken in (b'', b'no image', content[: len(content) // 2]):
        with pytest.raises(ValueError, match='not an image'):
            decode(broken, 3)


def jpegs(photo):
    """(name, file, whether its rows can be had from the top on)."""
    options = {
        'grey': ('L', {}, True),
        '4:4:4': ('RGB', {'subsampling': 0}, True),
        '4:2:2': ('RGB', {'subsampling': 1}, True),
        '4:2:0': ('RGB', {'subsampling': 2}, True),
        'progressive': ('RGB', {'progressive': True}, False),
        'restarts': ('RGB', {'restart_marker_rows': 2}, False),
    }
    for name, (mode, kwargs, in_order) in options.items():
        yield name, encoded(photo.convert(mode), 'JPEG', quality=90, **kwargs), in_order


@pytest.mark.parametrize('channels', [1, 3])
def test_regions_are_those_of_the_whole(photo, channels, capfd):
    """To the bit, and the decoder complains of nothing."""
    rng = np.random.default_rng(0)
    for name, content, in_order in jpegs(photo):
        whole = decode(content, channels)
        part = picture(content, channels)
        assert part.size == (427, 640)
        assert part.header.rows_in_order == in_order, name
        for _ in range(12):
            height, width = rng.integers(1, 300, 2)
            top, left = rng.integers(427 - height + 1), rng.integers(640 - width + 1)
            got, box = part.region(top, left, height, width, to=(height, width))
            assert box == (0, 0, height, width)
            expected = whole[top : top + height, left : left + width]
            np.testing.assert_array_equal(got, expected, err_msg=name)
    assert capfd.readouterr().err == ''


def test_rows_below_a_region_are_not_decoded(photo):
    """What is broken there does not matter."""
    content = bytearray(encoded(photo, 'JPEG', quality=90))
    middle = len(content) // 2
    content[middle + 2000 : -2] = bytes(len(content) - middle - 2002)
    part, _ = picture(bytes(content), 3).region(0, 0, 100, 640, to=(100, 640))
    np.testing.assert_array_equal(part, decode(encoded(photo, 'JPEG', quality=90), 3)[:100])


@pytest.mark.parametrize('scale', [2, 4, 8])
def test_smaller_scales_against_pillow(photo, scale):
    """As the docstring says: shrunk by Pillow's filter from a full decoding, or from a part."""
    rng = np.random.default_rng(0)
    for name, content, _ in jpegs(photo):
        if name == 'grey':
            continue
        full = Image.open(io.BytesIO(content)).convert('RGB')
        for spare, most in ((1, 4), (2, 1.5)):
            differences = []
            for _ in range(6):
                to = (40 // spare, 45 // spare)
                height, width = 40 * scale + rng.integers(5), 45 * scale + rng.integers(5)
                top, left = rng.integers(427 - height + 1), rng.integers(640 - width + 1)
                lazy = picture(content, 3)
                pixels, box = lazy.region(
                    top, left, height, width, to=(spare * to[0], spare * to[1])
                )
                assert box[2:] == (height / scale, width / scale), name
                expected = full.resize(
                    to[::-1], Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
                )
                got = resize(pixels, *to, 'bilinear', box)
                differences.append(abs(got.astype(int) - np.asarray(expected)).mean())
            assert np.mean(differences) < most, (name, spare)


def test_never_smaller_than_asked(photo):
    part = picture(encoded(photo, 'JPEG'), 3)
    for asked in ((213, 320), (214, 320), (213, 321), (106, 160), (53, 80), (427, 640), (1, 1)):
        _, box = part.region(0, 0, 427, 640, to=asked)
        assert box[2] >= asked[0] and box[3] >= asked[1]
    assert part.region(0, 0, 427, 640, to=(213, 320))[0].shape == (214, 320, 3)
    assert part.region(0, 0, 427, 640, to=(214, 320))[0].shape == (427, 640, 3)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_exif_orientation(photo, kind, orientation):
    small = photo.resize((64, 48))
    exif = Image.Exif()
    exif[0x010F] = 'a camera'
    exif[0x0112] = orientation
    content = encoded(small, kind, exif=exif)
    opened = Image.open(io.BytesIO(content))
    for turned in (True, False):
        expected = np.asarray(
            (ImageOps.exif_transpose(opened) if turned else opened).convert('RGB')
        )
        got = picture(content, 3, exif=turned)
        assert got.size == expected.shape[:2]
        pixels, _ = got.region(0, 0, *got.size, to=got.size)
        assert abs(pixels.astype(int) - expected).max() <= 2
        np.testing.assert_array_equal(pixels, decode(content, 3, exif=turned))
        assert isinstance(got, Jpeg) == (kind == 'JPEG' and (orientation == 1 or not turned))


def test_broken_pictures(photo):
    for progressive in (False, True):
        content = encoded(photo, 'JPEG', progressive=progressive)
        for broken in (b'', b'no image', content[:300], content[: len(content) // 2]):
            with pytest.raises(BrokenImage, match='not an image'):
                picture(broken, 3).region(0, 0, 10, 10, to=(10, 10))


def test_unusual_headers(photo):
    """CMYK is left to the decoder, and what is cut in the header is no header."""
    content = encoded(photo.resize((32, 32)).convert('CMYK'), 'JPEG')
    assert read_header(content) is None
    assert isinstance(picture(content, 3), Decoded)
    usual = encoded(photo, 'JPEG')
    header = read_header(usual)
    assert struct.unpack_from('>H', usual, header.height_at)[0] == 427
    for length in range(0, header.length - 12, 7):
        assert read_header(usual[:length]) is None

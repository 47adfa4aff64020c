"""Decoding against Pillow, and partial decoding of JPEGs against full decoding."""

import io
import pickle
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from cls.data.decode import (
    SUFFIXES,
    BrokenImage,
    DamagedImage,
    Decoded,
    Jpeg,
    Rules,
    decode,
    picture,
)
from cls.data.headers import read_header
from cls.data.resize import resize


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope='module')
def photo():
    return Image.fromarray(load_sample_image('flower.jpg'))  # (427, 640, 3)


# Pillow's formats and the options for writing.
KINDS = {
    'JPEG': ({}, {'progressive': True}, {'subsampling': 0}, {'subsampling': 1}),
    'PNG': ({},),
    'WEBP': ({}, {'lossless': True}),
    'AVIF': ({},),
    'GIF': ({},),
    'TIFF': ({}, {'compression': 'tiff_lzw'}, {'compression': 'jpeg'}),
    'BMP': ({},),
    'PPM': ({},),
    'JPEG2000': ({}, {'irreversible': True}),
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('channels', [1, 3])
def test_pixels_are_pillows(photo, kind, channels):
    """All formats and modes, with transparency, equal Pillow's to the bit."""
    small, count = photo.resize((131, 98)), 0
    alpha = Image.fromarray(np.random.default_rng(0).integers(256, size=(98, 131), dtype=np.uint8))
    for mode in ('RGB', 'L', 'P', 'RGBA', 'LA', '1', 'CMYK'):
        image = small.convert(mode)
        if mode in ('RGBA', 'LA'):
            image.putalpha(alpha)
        for options in KINDS[kind]:
            try:
                content = encoded(image, kind, **options)
            except (OSError, ValueError):  # the format has no such mode
                continue
            expected = Image.open(io.BytesIO(content)).convert('RGB' if channels == 3 else 'L')
            got = decode(content, channels)
            assert got.shape == (98, 131, channels) and got.dtype == np.uint8
            np.testing.assert_array_equal(got, np.asarray(expected).reshape(got.shape), mode)
            count += 1
    assert count >= 2


@pytest.mark.parametrize('kind', ['.png', '.tif', '.pgm', '.jp2'])
def test_of_16_bits_the_upper_8_are_kept(photo, kind):
    """Gray and color; Pillow's own conversion of 16-bit gray keeps the wrong bits."""
    wide = np.asarray(photo.resize((64, 48))).astype(np.uint16) * 256 + 200
    for pixels in (wide, wide[..., 0]):
        written = kind.replace('pgm', 'ppm') if pixels.ndim == 3 else kind
        content = cv2.imencode(written, pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1]
        expected = (pixels >> 8).reshape(48, 64, -1)
        got = decode(content.tobytes(), 3)
        # JPEG 2000 is not lossless here; Pillow rounds color PPM instead of truncating.
        assert abs(got.astype(int) - expected).max() <= {'.jp2': 4, '.pgm': 1}.get(kind, 0)


def test_pixels_without_a_range_are_refused(photo):
    gray = np.asarray(photo.convert('L').resize((20, 20)))
    for image in (Image.fromarray(gray.astype(np.float32)), Image.fromarray(gray.astype(np.int32))):
        with pytest.raises(BrokenImage, match='numbers of 32 bits'):
            decode(encoded(image, 'TIFF'), 3)


@pytest.mark.parametrize('kind', ['GIF', 'PNG', 'WEBP', 'TIFF', 'AVIF'])
def test_of_several_images_the_first_is_taken(photo, kind):
    frames = [photo.resize((64, 48)).rotate(90 * i) for i in range(3)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(content)).n_frames == 3
    expected = np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))
    np.testing.assert_array_equal(decode(content, 3), expected)
    others = [abs(expected.astype(int) - np.asarray(frame)).mean() for frame in frames]
    assert 4 * others[0] < min(others[1:])


def test_names_of_formats_are_those_of_pillow(photo):
    """Each suffix belongs to a decoded format; Pillow has all suffixes except one."""
    Image.init()
    formats = {Image.EXTENSION.get(suffix, 'other') for suffix in SUFFIXES}
    assert formats - {'other', 'MPO', 'SUN', 'DIB'} == set(KINDS)
    assert [s for s in SUFFIXES if s not in Image.EXTENSION] == ['.jif', '.sr']
    ras = cv2.imencode('.sr', np.asarray(photo.resize((30, 20)))[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(ras, 3), np.asarray(photo.resize((30, 20))))
    with pytest.raises(BrokenImage):  # whatever its suffix: PostScript would be executed
        decode(encoded(photo, 'EPS'), 3)


def test_orientation_is_ignored(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert decode(encoded(photo, 'JPEG', exif=exif), 3).shape == (427, 640, 3)


@pytest.mark.parametrize('kind', KINDS)
def test_broken_images(photo, kind):
    content = encoded(photo, kind)
    for broken in (b'', b'no image', content[:30], content[: len(content) // 2]):
        with pytest.raises(BrokenImage):
            decode(broken, 3)


def damages(content):
    """Yields (kind of damage, damaged file) for a file of some thousand bytes."""
    size = len(content)
    for part in (0.1, 0.5, 0.9):
        at = int(part * size)
        yield f'ends at {part}', content[:at]
        yield f'zeros at {part}', content[:at] + bytes(size // 20) + content[at + size // 20 :]
        yield f'bytes gone at {part}', content[:at] + content[at + size // 20 :]
        yield f'bytes added at {part}', content[:at] + b'U' * (size // 20) + content[at:]
    yield 'lacks its last bytes', content[:-2]
    yield 'twice the first half', 2 * content[: size // 2]
    if content[:2] == b'\xff\xd8':
        yield 'ends soon, with a marker', content[: size // 2] + b'\xff\xd9'


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_damage_that_a_strict_decoder_notices_is_refused(photo, kind, capfd):
    """Also if Pillow decodes garbage; nothing is printed."""
    lenient = 0
    small = photo.resize((320, 240))
    variants = [('RGB', options) for options in KINDS[kind]]
    variants += [('L', {}), ('P' if kind == 'PNG' else 'CMYK', {})]
    if kind == 'JPEG':
        variants.append(('RGB', {'restart_marker_rows': 2}))
    for mode, options in variants:
        content = encoded(small.convert(mode), kind, **options)
        for name, damaged in damages(content):
            with pytest.raises(BrokenImage):
                decode(damaged, 3)
                pytest.fail(f'{mode} {options} {name}')
            try:
                Image.open(io.BytesIO(damaged)).convert('RGB')
                lenient += 1
            except (OSError, SyntaxError):
                pass
    assert lenient > (20 if kind == 'JPEG' else 0)
    assert capfd.readouterr().err == ''


def test_webp_is_refused_where_pillow_refuses_it(photo):
    """WebP has no checksums, so much damage stays unnoticed; but OpenCV decodes bytes after it."""
    content = encoded(photo.resize((320, 240)), 'WEBP')
    refused = 0
    for name, damaged in damages(content):
        try:
            Image.open(io.BytesIO(damaged)).convert('RGB')
        except OSError:
            refused += 1
            with pytest.raises(BrokenImage):
                decode(damaged, 3)
                pytest.fail(name)
    assert refused >= 8


def test_damage_is_noticed_by_a_rough_crop_that_verifies(photo):
    """The decoded rows seldom show damage; the end of the file does. Repair keeps rows above it."""
    for subsampling in (0, 2):
        content = encoded(photo, 'JPEG', quality=90, subsampling=subsampling)
        start = read_header(content).length
        at = start + (len(content) - start) // 5
        for damaged in (
            content[:at] + bytes(600) + content[at + 600 :],
            content[:at] + content[at + 900 :],
            content[:at] + b'\xff\xd9' + content[at:],
        ):
            for to in ((200, 640), (100, 300), (20, 60)):
                intact, taken = (
                    picture(file, 3, rules).region(0, 0, 200, 640, to=to, roughly=True)[0]
                    for file, rules in ((content, Rules()), (damaged, Rules(repair=True)))
                )
                with pytest.raises(DamagedImage, match='Corrupt JPEG data'):
                    picture(damaged, 3, Rules(verify=True)).region(
                        0, 0, 200, 640, to=to, roughly=True
                    )
                assert taken.shape == intact.shape
                np.testing.assert_array_equal(taken[:2], intact[:2])
        with pytest.raises(DamagedImage):  # these rows are missing
            picture(damaged, 3).region(0, 0, 200, 640, to=(200, 640), roughly=True)


def test_rough_crops_are_the_same_whether_or_not_they_verify(photo):
    """A batch is a function of the step only, whatever a process has decoded before."""
    rng = np.random.default_rng(0)
    for name, content, _ in jpegs(photo):
        for scale in (1, 2, 4, 8):
            height, width = rng.integers(40, 300, 2)
            top, left = rng.integers(427 - height + 1), rng.integers(640 - width + 1)
            first, again = (
                picture(content, 3, Rules(verify=verify)).region(
                    top, left, height, width, (height // scale, width // scale), roughly=True
                )[0]
                for verify in (True, False)
            )
            np.testing.assert_array_equal(first, again, name)


def png_header(width, height):
    """Returns a PNG that declares a size, with a few bytes of pixels."""
    parts = [(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))]
    parts += [(b'IDAT', zlib.compress(bytes(100))), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        for kind, data in parts
    )


def declared(photo, kind, width, height):
    """Returns a small file with a header that declares a large image."""
    small = photo.resize((64, 48))
    content = bytearray(encoded(small, kind, **({'lossless': False} if kind == 'WEBP' else {})))
    if kind == 'PNG':
        return png_header(width, height)
    if kind == 'JPEG':
        struct.pack_into('>HH', content, read_header(bytes(content)).height_at, height, width)
    elif kind == 'GIF':
        struct.pack_into('<HH', content, 6, width, height)
    elif kind == 'BMP':
        struct.pack_into('<ii', content, 18, width, height)
    elif kind == 'PPM':
        return b'P6 %d %d 255\n' % (width, height) + bytes(100)
    elif kind == 'WEBP':
        struct.pack_into('<HH', content, 26, min(width, 16383), min(height, 16383))
    return bytes(content)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'GIF', 'BMP', 'PPM', 'WEBP'])
def test_declared_sizes_are_checked_before_memory_is_asked_for(photo, kind):
    content = declared(photo, kind, 16000, 16000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for channels in (1, 3):
        with pytest.raises(BrokenImage, match=r' pixels, more than 89,478,485$'):
            decode(content, channels)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # of 750,000 kB
    small = encoded(photo.resize((64, 48)), kind)
    assert decode(small, 3, Rules(max_pixels=64 * 48)).shape == (48, 64, 3)
    with pytest.raises(BrokenImage, match='64 x 48 pixels, more than 3,071$'):
        decode(small, 3, Rules(max_pixels=64 * 48 - 1))


@pytest.mark.parametrize('kind', KINDS)
def test_the_limit_is_that_of_every_format(photo, kind):
    content = encoded(photo.resize((64, 48)), kind)
    with pytest.raises(BrokenImage, match='64 x 48 pixels, more than 3,071$'):
        decode(content, 3, Rules(max_pixels=64 * 48 - 1))


def test_the_limit_may_be_above_pillows(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    monkeypatch.setattr('cls.data.decode.MAX_PIXELS', 1000)
    content = encoded(Image.new('L', (100, 50)), 'GIF')
    with pytest.raises(BrokenImage, match='pixels, more than 1,000$') as caught:
        decode(content, 3, Rules(max_pixels=1000))
    assert pickle.loads(pickle.dumps(caught.value)).field == 'data.max_pixels'  # from a worker
    assert decode(content, 3, Rules(max_pixels=6000)).shape == (50, 100, 3)


def jpegs(photo):
    """Yields (name, file, whether its rows can be decoded from the top)."""
    options = {
        'gray': ('L', {}, True),
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
    """Regions are equal to the bit, and the decoder reports no error."""
    rng = np.random.default_rng(0)
    for name, content, in_order in jpegs(photo):
        if channels == 1 and name != 'gray':
            assert isinstance(picture(content, channels), Decoded)  # Pillow converts the colors
            continue
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


def test_rows_below_a_rough_region_are_not_decoded(photo):
    """Damage below the region has no effect until an exact region is decoded."""
    content = bytearray(encoded(photo, 'JPEG', quality=90))
    intact = picture(bytes(content), 3)
    middle = len(content) // 2
    content[middle + 2000 : -2] = bytes(len(content) - middle - 2002)
    damaged = picture(bytes(content), 3)
    part, expected = (
        lazy.region(0, 0, 100, 640, to=(100, 640), roughly=True)[0] for lazy in (damaged, intact)
    )
    np.testing.assert_array_equal(part, expected)
    with pytest.raises(DamagedImage):
        damaged.region(0, 0, 100, 640, to=(100, 640))


@pytest.mark.parametrize('scale', [2, 4, 8])
def test_smaller_scales_against_pillow(photo, scale):
    """The differences that the docstring of `Jpeg.region` states, with Pillow's filter after it."""
    rng = np.random.default_rng(0)
    for name, content, _ in jpegs(photo):
        if name == 'gray':
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
        got = picture(content, 3, Rules(exif=turned))
        assert got.size == expected.shape[:2]
        pixels, _ = got.region(0, 0, *got.size, to=got.size)
        assert abs(pixels.astype(int) - expected).max() <= 2
        np.testing.assert_array_equal(pixels, decode(content, 3, Rules(exif=turned)))
        assert isinstance(got, Jpeg) == (kind == 'JPEG' and (orientation == 1 or not turned))


def test_broken_pictures(photo):
    for progressive in (False, True):
        content = encoded(photo, 'JPEG', progressive=progressive)
        for broken in (b'', b'no image', content[:300], content[: len(content) // 2]):
            with pytest.raises(BrokenImage):
                picture(broken, 3).region(0, 0, 10, 10, to=(10, 10))


def test_unusual_headers(photo):
    """Pillow decodes CMYK, and a truncated header is not a header."""
    content = encoded(photo.resize((32, 32)).convert('CMYK'), 'JPEG')
    assert read_header(content) is None
    assert isinstance(picture(content, 3), Decoded)
    usual = encoded(photo, 'JPEG')
    header = read_header(usual)
    assert struct.unpack_from('>H', usual, header.height_at)[0] == 427
    for length in range(0, header.length - 12, 7):
        assert read_header(usual[:length]) is None

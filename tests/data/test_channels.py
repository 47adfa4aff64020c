"""Images with other numbers of channels: arrays, TIFF, PNG with alpha, and conversions."""

import io

import numpy as np
import pytest
from PIL import Image

from cls.augment.spec import AugmentSpec
from cls.data import datasets, pipeline, planes, transforms
from cls.data.decode import Rules, decode
from cls.data.headers import BrokenImage
from cls.data.resize import INTERPOLATIONS, Resized, resize, resized
from cls.errors import UserError
from cls.recipes.common import base

NOISE = np.random.default_rng(0).integers(256, size=(9, 7, 5), dtype=np.uint8)


def npy(array):
    encoded = io.BytesIO()
    np.save(encoded, array)
    return encoded.getvalue()


def image(mode, form='PNG', **options):
    encoded = io.BytesIO()
    channels = len(mode) if mode != 'P' else 1
    pixels = NOISE[..., :channels] if channels > 1 else NOISE[..., 0]
    Image.fromarray(np.ascontiguousarray(pixels), mode).save(encoded, form, **options)
    return encoded.getvalue()


@pytest.mark.parametrize('order', ['C', 'F'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 5])
def test_arrays_have_their_own_pixels(channels, order):
    array = np.array(NOISE[..., :channels], order=order)
    np.testing.assert_array_equal(decode(npy(array), channels), array)
    assert decode(npy(array), channels).flags.c_contiguous


def test_arrays_are_converted_between_gray_and_color():
    np.testing.assert_array_equal(decode(npy(NOISE[..., 0]), 3), np.stack([NOISE[..., 0]] * 3, 2))
    for channels in (1, 3):
        expected = decode(image('RGB'), channels)
        np.testing.assert_array_equal(decode(npy(NOISE[..., :3]), channels), expected)
        np.testing.assert_array_equal(decode(npy(NOISE[..., :4]), channels), expected)


@pytest.mark.parametrize('mode', ['LA', 'RGBA'])
def test_alpha_is_a_channel(mode):
    np.testing.assert_array_equal(decode(image(mode), len(mode)), NOISE[..., : len(mode)])


def test_exif_turns_them_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(image('RGBA', exif=exif), 4, Rules(exif=True))
    np.testing.assert_array_equal(turned, np.rot90(NOISE[..., :4], -1))
    np.testing.assert_array_equal(decode(image('RGBA', exif=exif), 4), NOISE[..., :4])


@pytest.mark.parametrize(
    ('encoded', 'channels', 'message'),
    [
        (npy(NOISE), 4, '5 channels: expected 4$'),
        (npy(NOISE), 3, 'an array of 5 channels, not of 3'),
        (npy(NOISE.astype(np.uint16)), 5, 'an array of uint16, not of uint8'),
        (npy(NOISE[None]), 5, r'an array of shape \(1, 9, 7, 5\), not'),
        (npy(NOISE[:0]), 5, 'without pixels'),
        (npy(NOISE)[:-1], 5, 'the file ends early'),
        (npy(NOISE)[:30], 5, 'not an array of NumPy'),
        (npy(np.array([{}], object)), 5, 'an array of object'),
        (image('RGB'), 4, 'a PNG of kind RGB: expected 4 channels'),
        (image('LA'), 4, '2 channels: expected 4'),
        (image('RGB', 'JPEG'), 4, '^expected 4 channels in a .npy, TIFF or'),
        (image('RGBA')[:60], 4, 'damaged|ends early'),
        (b'', 4, 'expected 4 channels'),
    ],
)
def test_other_files_are_refused(encoded, channels, message):
    with pytest.raises(BrokenImage, match=message):
        decode(encoded, channels)


def test_the_limit_of_pixels_holds():
    for encoded, channels in ((npy(NOISE), 5), (image('RGBA'), 4)):
        with pytest.raises(BrokenImage, match='7 x 9 pixels, more than 62'):
            decode(encoded, channels, Rules(max_pixels=62))


@pytest.mark.parametrize('channels', [2, 4, 5])
@pytest.mark.parametrize('planar', ['contig', 'separate'])
def test_tiff_files_of_tifffile(channels, planar):
    tifffile = pytest.importorskip('tifffile')
    array = NOISE[..., :channels]
    encoded = io.BytesIO()
    values = array if planar == 'contig' else array.transpose(2, 0, 1)
    options = {'photometric': 'minisblack', 'compression': 'zlib', 'planarconfig': planar}
    tifffile.imwrite(encoded, values, **options)
    np.testing.assert_array_equal(decode(encoded.getvalue(), channels), array)
    with pytest.raises(BrokenImage, match=f'{channels} channels: expected 6'):
        decode(encoded.getvalue(), 6)


def test_tiff_files_need_a_package(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda _: None)
    with pytest.raises(
        UserError, match=r"tifffile is not installed: run pip install 'cls\[tiff\]'"
    ):
        decode(image('RGBA', 'TIFF'), 4)


@pytest.mark.parametrize('interpolation', INTERPOLATIONS)
def test_each_channel_is_resized_as_a_gray_image(interpolation):
    """An alpha channel does not weight the colors."""
    rough = interpolation == 'bilinear'
    for to in ((4, 5), (20, 15)):
        each = [resize(NOISE[..., c, None], *to, interpolation, roughly=rough) for c in range(5)]
        found = resize(NOISE, *to, interpolation, roughly=rough)
        np.testing.assert_array_equal(found, np.concatenate(each, 2))
        window = resized(NOISE, to, interpolation).only_window(1, 2, 3, 2)
        planes_ = [Resized(NOISE[..., c, None], to, interpolation) for c in range(5)]
        expected = np.concatenate([plane.only_window(1, 2, 3, 2) for plane in planes_], 2)
        np.testing.assert_array_equal(window, expected)


def test_a_folder_of_arrays(tmp_path, make_data):
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                np.save(tmp_path / split / name / f'{number}.npy', NOISE[..., :4] + number)
    data = make_data(
        name=f'folder:{tmp_path}', channels=4, image_size=6, train_crop='random_resized'
    )
    train, test = (datasets.load(data, split) for split in ('train', 'eval'))
    np.testing.assert_array_equal(train[1]['image'], NOISE[..., :4] + 1)
    info = pipeline.info(train, test, data)
    assert info.image_shape == (6, 6, 4)
    batches = pipeline.train_batches(train, data, batch=3, seed=0, num_classes=2)
    assert next(batches)['image'].shape == (3, 6, 6, 4)
    batches.close()
    (batch,) = pipeline.eval_batches(test, data, batch=4, num_classes=2)
    crop = transforms.center_crop(NOISE[..., :4], 6, 6)
    np.testing.assert_array_equal(batch['image'][0], crop)
    with pytest.raises(UserError, match='mean has 3 values, but the images .* have 4 channel'):
        make_data(name='folder:x', mean=(1.0, 2.0, 3.0)).check_channels(4)
    np.save(tmp_path / 'train' / 'cat' / '1.npy', NOISE)
    with pytest.raises(
        UserError, match=r'cat/1.npy \(5 channels: expected 4; see config.data.channels\)'
    ):
        datasets.load(data, 'train')[1]


def test_folders_and_digits_are_converted(birds, make_data):
    color, gray = (
        datasets.load(make_data(name=f'folder:{birds}', channels=channels), 'train')
        for channels in (0, 1)
    )
    assert (color.channels, gray.channels) == (3, 1)
    content = (birds / 'train' / color.files[0]).read_bytes()
    np.testing.assert_array_equal(gray[0]['image'], decode(content, 1))
    digits, rgb = (datasets.load(make_data(channels=channels), 'eval') for channels in (0, 3))
    assert rgb[5]['image'].shape == (8, 8, 3) and (rgb[5]['image'] == digits[5]['image']).all()
    assert rgb.split == digits.split and rgb.identity() == digits.identity()
    with pytest.raises(UserError, match='channels is 4, but the images have 1: expected 0'):
        datasets.load(make_data(channels=4), 'eval')


def test_operations_on_colors_are_refused():
    config = base()
    config.augment.policy = 'randaugment'
    AugmentSpec.from_config(config, 1)
    config.augment.hue = 0.1
    with pytest.raises(
        UserError, match=r"hue is 0.1, .* 4 channels: expected 0. .*policy.*expected ''"
    ):
        AugmentSpec.from_config(config, 4)


def test_conversions_refuse_what_has_no_rule():
    with pytest.raises(BrokenImage, match='an array of 2 channels, not of 3'):
        planes.converted(NOISE[..., :2], 3)

"""Crops against their definitions, Pillow and TensorFlow."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from cls.data import transforms
from cls.data.decode import Jpeg, picture
from cls.data.resize import shorter_to
from cls.data.spec import DataSpec
from cls.errors import UserError
from cls.inference.preprocess import Preprocess


@pytest.fixture(scope='module')
def photo():
    return Image.fromarray(load_sample_image('flower.jpg'))  # (427, 640, 3)


def test_center_crop(photo):
    """torchvision's Resize(256), CenterCrop(224): 427x640 -> 256x383 -> from row 16, column 80."""
    resized = np.asarray(photo.resize((383, 256), Image.Resampling.BILINEAR))
    crop = transforms.center_crop(np.asarray(photo), 224, 256)
    np.testing.assert_array_equal(crop, resized[16:240, 80:304])
    turned = photo.transpose(Image.Transpose.TRANSPOSE)
    resized = np.asarray(turned.resize((256, 383), Image.Resampling.BILINEAR))
    crop = transforms.center_crop(np.asarray(turned), 224, 256)
    np.testing.assert_array_equal(crop, resized[80:304, 16:240])


def test_squashed_images_keep_no_ratio(photo):
    """timm's crop_mode 'squash': Resize((256, 256)), CenterCrop(224)."""
    resized = np.asarray(photo.resize((256, 256), Image.Resampling.BICUBIC))
    data = DataSpec(image_size=224, eval_resize=256, interpolation='bicubic', eval_crop='squash')
    crop = transforms.eval_crop(data)(np.asarray(photo))
    np.testing.assert_array_equal(crop, resized[16:240, 16:240])
    np.testing.assert_array_equal(Preprocess.of_data(data, 3).pixels(photo)[0], crop)


# (width, height) after Resize(side) of torchvision 0.29.1, and the start of its CenterCrop.
@pytest.mark.parametrize(
    ('shape', 'side', 'to', 'size', 'corner'),
    [
        ((884, 414), 161, (343, 161), 161, (91, 0)),
        ((285, 543), 161, (161, 306), 137, (12, 84)),
        ((822, 869), 342, (342, 361), 318, (12, 22)),
        ((386, 617), 232, (232, 370), 201, (16, 84)),
        ((162, 308), 232, (232, 441), 232, (0, 104)),
        ((653, 838), 342, (342, 438), 311, (16, 64)),
        ((742, 849), 72, (72, 82), 64, (4, 9)),
        ((337, 121), 248, (690, 248), 248, (221, 0)),
        ((890, 720), 342, (422, 342), 318, (52, 12)),
        ((593, 123), 342, (1648, 342), 318, (665, 12)),
        ((343, 645), 248, (248, 466), 240, (4, 113)),
        ((585, 508), 161, (185, 161), 130, (28, 16)),
        ((286, 83), 72, (248, 72), 72, (88, 0)),
        ((115, 756), 161, (161, 1058), 129, (16, 464)),
    ],
)
def test_sizes_are_torchvisions(shape, side, to, size, corner):
    assert shorter_to(shape, side) == to
    image = np.zeros((*to, 1), np.uint8)
    image[corner] = 1
    assert transforms.center_crop(image, size, side)[0, 0, 0] == 1


def coordinates(height: int, width: int) -> np.ndarray:
    """Returns (H, W, 3) uint8; each pixel has its row and column as values."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 255)], axis=-1).astype(np.uint8)


def test_pad(make_data):
    """All offsets are equally frequent; pixels outside the image are zero in all channels."""
    crop = transforms.train_crop(make_data(image_size=8, train_crop='pad', pad=2))
    image = coordinates(8, 8)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    counts = np.zeros((5, 5), int)
    rng = np.random.default_rng(0)
    for _ in range(2500):
        got = crop(image, rng)
        top, left = int(got[4, 4, 0]) - 2, int(got[4, 4, 1]) - 2  # the center is always inside
        np.testing.assert_array_equal(got, padded[top : top + 8, left : left + 8])
        counts[top, left] += 1
    assert counts.min() > 60
    assert counts.max() < 140


def test_mirrored_borders(make_data):
    crop = transforms.train_crop(
        make_data(image_size=8, train_crop='pad', pad=2, pad_mode='mirror')
    )
    image = coordinates(8, 8)
    padded = np.stack(  # row -1 is row 1, and row 8 is row 6
        [[image[[2, 1, *range(8), 6, 5][r], [2, 1, *range(8), 6, 5][c]] for c in range(12)]
         for r in range(12)]
    )  # fmt: skip
    windows = {padded[t : t + 8, k : k + 8].tobytes() for t in range(5) for k in range(5)}
    rng = np.random.default_rng(0)
    seen = {crop(image, rng).tobytes() for _ in range(400)}
    assert seen == windows
    assert len(windows) == 25


def test_none_keeps_the_image(make_data):
    crop = transforms.train_crop(make_data(image_size=8))
    image = coordinates(8, 8)
    np.testing.assert_array_equal(crop(image, np.random.default_rng(0)), image)
    np.testing.assert_array_equal(
        crop(coordinates(8, 14), np.random.default_rng(0)), coordinates(8, 14)[:, 3:11]
    )


def test_scale_jitter(make_data, monkeypatch):
    """The shorter side takes every value of the range, and the crop every position."""
    sides = []
    monkeypatch.setattr(
        transforms, 'shorter_to', lambda shape, side: sides.append(side) or shorter_to(shape, side)
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
    """Area and log aspect are uniform if every box fits (area up to 0.5 of a square)."""
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
        ((100, 1000), (0, 433, 100, 133)),  # torchvision: width 100 * 4/3, in the center
        ((1000, 100), (433, 0, 133, 100)),
    ],
)
def test_random_box_falls_back_to_the_middle(shape, box):
    assert transforms.random_box(shape, np.random.default_rng(0), (0.9, 1.0), (3 / 4, 4 / 3)) == box


def test_tensorflow_boxes():
    """Their areas, aspect ratios and positions are distributed as TensorFlow's own."""
    theirs = np.load(Path(__file__).with_name('tensorflow.npz'))['boxes'].astype(float)
    rng = np.random.default_rng(0)
    ours = np.array(
        [transforms.random_tf_box((300, 400), rng, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in theirs]
    )

    def quantiles(boxes):
        top, left, height, width = boxes.T
        values = height * width / 120_000, width / height, top / 300, left / 400
        return np.quantile(values, [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99], axis=1)

    np.testing.assert_allclose(quantiles(ours), quantiles(theirs), atol=0.03)
    plain = [transforms.random_box((300, 400), rng, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in theirs]
    assert abs(quantiles(np.array(plain)) - quantiles(theirs)).max() > 0.05


def test_tensorflow_box_that_never_fits():
    """Half of a strip cannot be nearly square: the box is the whole strip."""
    box = transforms.random_tf_box((10, 100), np.random.default_rng(0), (0.5, 1.0), (0.75, 1.33))
    assert box == (0, 0, 10, 100)


def test_pad_is_the_same_crop_as_of_single_images():
    images = np.random.default_rng(0).integers(256, size=(20, 8, 8, 3), dtype=np.uint8)
    offsets = np.random.default_rng(1).integers(7, size=(20, 2))
    batch = transforms.pad_crop(images, offsets, size=8, pad=3)
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))
    for image, crop, (top, left) in zip(padded, batch, offsets, strict=True):
        np.testing.assert_array_equal(crop, image[top : top + 8, left : left + 8])


def test_pad_with_the_mean_is_zero_after_normalizing(make_data):
    image = np.full((8, 8, 3), 200, np.uint8)
    mean = (125.3, 123.0, 113.9)
    crop = transforms.train_crop(
        make_data(image_size=8, train_crop='pad', pad=8, pad_mode='mean', mean=mean)
    )
    crops = np.concatenate([crop(image, np.random.default_rng(seed)) for seed in range(8)])
    added = crops[(crops != 200).any(-1)]
    assert len(added) and (crops == 200).any()
    assert np.abs(added - np.float32(mean)).max() <= 0.5


@pytest.mark.parametrize('name', ['none', 'pad', 'scale_jitter', 'random_resized', 'distorted_box'])
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic', 'tf_bilinear', 'tf_bicubic'])
def test_crops_of_pictures(make_data, photo, name, interpolation):
    """Crops of a JPEG equal those of the decoded image, nearly so if reduced by 2.

    Crops for training are decoded roughly.
    """
    buffer = io.BytesIO()
    photo.save(buffer, 'JPEG', quality=95)
    lazy, image = picture(buffer.getvalue(), 3), np.asarray(Image.open(buffer))
    assert isinstance(lazy, Jpeg)
    least = 0 if name in ('none', 'pad') else 3
    for size, most in ((230, least), (100, least if interpolation.startswith('tf_') else 4)):
        data = make_data(
            image_size=size, train_crop=name, scale=(size, size), interpolation=interpolation
        )
        for seed in range(3):
            got, expected = (
                transforms.train_crop(data)(source, np.random.default_rng(seed)).astype(int)
                for source in (lazy, image)
            )
            assert got.shape == (size, size, 3)
            assert abs(got - expected).mean() <= most


def test_random_resized(make_data):
    crop = transforms.train_crop(make_data(image_size=16, train_crop='random_resized'))
    for shape in ((40, 60), (1, 50), (50, 1), (16, 16)):
        image = crop(coordinates(*shape), np.random.default_rng(0))
        assert image.shape == (16, 16, 3)
        assert image.dtype == np.uint8


def test_same_generator_same_crop(make_data, photo):
    for name in ('pad', 'scale_jitter', 'random_resized', 'distorted_box'):
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
        ({'train_crop': 'pad', 'pad_mode': 'mirrow'}, "pad_mode is 'mirrow'.*Did you mean mirror?"),
        ({'train_crop': 'pad', 'pad': 32, 'pad_mode': 'mirror'}, 'pad is 32: .* at most 31'),
        ({'interpolation': 'bicubik'}, "interpolation is 'bicubik'.*Did you mean bicubic?"),
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
    with pytest.raises(UserError, match=r'eval_resize is 16, less than the 32 of image_size'):
        transforms.eval_crop(make_data(eval_resize=16))
    with pytest.raises(UserError, match=r'eval_resize is 39, less than the 40 of eval_size'):
        transforms.eval_crop(make_data(eval_resize=39, eval_size=40))
    with pytest.raises(UserError, match='eval_size is -1'):
        transforms.eval_crop(make_data(eval_size=-1))


def test_eval_size(make_data, photo):
    """It may differ from the size of training images, which are not enlarged first."""
    image = np.asarray(photo)
    crop = transforms.eval_crop(make_data(image_size=128, eval_size=160, eval_resize=180))
    np.testing.assert_array_equal(crop(image), transforms.center_crop(image, 160, 180))
    crop = transforms.eval_crop(make_data(image_size=128, eval_size=160))
    np.testing.assert_array_equal(crop(image), transforms.center_crop(image, 160, 160))

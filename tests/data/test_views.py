"""Views: their positions, in closed form, and each view once."""

import numpy as np
import pytest

from cls.data import views
from cls.data.sources import Source


def plane(height, width):
    """Returns an image with pixels (row, column, 0)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], 2).astype(np.uint8)


def place(view):
    """Returns row and column of the first and last pixel of a view."""
    return (*view[0, 0, :2].tolist(), *view[-1, -1, :2].tolist())


# torchvision's FiveCrop of these images: corners, and round((H - h) / 2) for the center.
@pytest.mark.parametrize(
    ('shape', 'middle'), [((32, 43), (4, 10)), ((43, 32), (10, 4)), ((32, 32), (4, 4))]
)
def test_five_crops_are_the_corners_and_the_middle(shape, middle):
    size, (height, width) = 24, shape
    found = views.corner_crops(plane(*shape), size=size, resize_to=32)
    starts = [(0, 0), (0, width - 24), (height - 24, 0), (height - 24, width - 24), middle]
    assert found.shape == (5, 24, 24, 3)
    assert [place(view) for view in found] == [(y, x, y + 23, x + 23) for y, x in starts]


@pytest.mark.parametrize('upright', [False, True])
def test_square_crops_are_six_of_each_square(upright):
    image = plane(64, 32).copy() if upright else plane(32, 64)
    found = views.square_crops(image, size=28, scales=(32,), where=(0, 0.5, 1))
    assert found.shape == (18, 28, 28, 3)
    for i, start in enumerate((0, 16, 32)):
        inside = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
        base = (start, 0) if upright else (0, start)
        expected = [(y + base[0], x + base[1]) for y, x in inside]
        assert [place(view)[:2] for view in found[6 * i : 6 * i + 5]] == expected
        square = image[base[0] : base[0] + 32, base[1] : base[1] + 32]
        whole = found[6 * i + 5]
        np.testing.assert_allclose(whole.mean((0, 1)), square.mean((0, 1)), atol=1)
        assert np.ptp(whole[..., 0]) == pytest.approx(31, abs=2)


def test_square_crops_come_from_every_scale():
    image = plane(40, 60)
    found = views.square_crops(image, size=28, scales=(32, 36, 40), where=(0.5,))
    # The first crop is the corner; 27 pixels of it are 27 * 40 / scale of the image.
    spans = [np.ptp(found[6 * i][..., 0]) for i in range(3)]
    assert spans == pytest.approx([27 * 40 / scale for scale in (32, 36, 40)], abs=1)


@pytest.mark.parametrize(
    ('size', 'multiple', 'expected'),
    [
        ((375, 500), 1, (256, 341)),
        ((375, 500), 32, (256, 320)),
        ((500, 375), 32, (320, 256)),
        ((300, 300), 32, (256, 256)),
        ((300, 310), 32, (256, 256)),
        ((100, 400), 32, (256, 1024)),
    ],
)
def test_whole_images_are_cut_to_few_shapes(size, multiple, expected):
    assert views.whole_shape(*size, scale=256, multiple=multiple) == expected


@pytest.mark.parametrize('multiple', [1, 8])
def test_whole_images_are_cut_at_both_ends(multiple):
    found = views.whole(plane(32, 45), scale=32, multiple=multiple)
    width = 45 if multiple == 1 else 40
    cut = (45 - width) // 2
    assert found.shape == (1, 32, width, 3)
    assert place(found[0]) == (0, cut, 31, cut + width - 1)


class Numbered(Source):
    """Eleven images; each pixel is the number of the image."""

    num_classes, class_names, channels = 11, (), 1

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return {'image': np.full((4, 4, 1), index, np.uint8), 'label': 10 - index}


def three(image):
    return np.stack([image + 20 * i for i in range(3)])


def read(of, reads=None):
    """Returns a reader of Numbered's images with these views, that lists the images it reads."""

    def read(images):
        if reads is not None:
            reads.extend(images)
        examples = [Numbered()[i] for i in images]
        return (
            [[views.make(e['image']) for views in of] for e in examples],
            [e['label'] for e in examples],
        )

    return read


@pytest.mark.parametrize('batch', [2, 4, 6, 32, 64])
@pytest.mark.parametrize('processes', [1, 2])
def test_every_view_comes_once_and_every_image_is_read_once(batch, processes):
    indices = np.array([0, 2, 3, 7, 9, 10], np.int32)
    of = views.Views(three, 3, lambda height, width: (4, 4))
    scale = views.Scale(3, np.array([[4, 4]]), np.zeros(11, np.int32), (batch,))
    seen, reads = [], []
    shares = [
        list(views.batches(read([of], reads), indices, [scale], 1, (p, processes)))
        for p in range(processes)
    ]
    assert sorted(reads) == indices.tolist()
    assert len({len(share) for share in shares}) == 1
    for step in zip(*shares, strict=True):
        assert all(len(part['index']) == batch // processes for part in step)
        index = np.concatenate([part['index'] for part in step])
        real = index >= 0
        assert {part['views'] for part in step} == {real.sum()}
        pixels = np.concatenate([part['image'] for part in step])[real, 0, 0, 0]
        labels = np.concatenate([part['label'] for part in step])[real]
        np.testing.assert_array_equal(pixels % 20, index[real])
        np.testing.assert_array_equal(labels, 10 - index[real])
        seen += pixels.tolist()
    assert sorted(seen) == sorted(i + 20 * view for i in indices for view in range(3))
    assert processes > 1 or seen == [i + 20 * view for i in indices for view in range(3)]


@pytest.mark.parametrize('processes', [1, 2])
def test_images_are_read_once_for_all_scales_and_shapes(processes):
    """Two scales with one view; at the second one the images have three shapes."""
    small = views.Views(lambda image: image[None], 1, lambda height, width: (4, 4))
    wide = views.Views(
        lambda image: np.tile(image, (1, 1 + image[0, 0, 0] // 4, 1))[None], 1, None, fixed=False
    )
    kinds = np.array([i // 4 for i in range(11)], np.int32)
    scales = [
        views.Scale(1, np.array([[4, 4]]), np.zeros(11, np.int32), (6,)),
        views.Scale(1, np.array([[4, 4], [4, 8], [4, 12]]), kinds, (2, 4, 4)),
    ]
    reads, seen = [], []
    shares = [
        list(views.batches(read([small, wide], reads), np.arange(11), scales, 1, (p, processes)))
        for p in range(processes)
    ]
    assert sorted(reads) == list(range(11))
    for step in zip(*shares, strict=True):
        assert len({part['image'].shape for part in step}) == 1
        for part in step:
            shape = part['image'].shape[1:3]
            assert len(part['image']) * processes in (6, {4: 2, 8: 4, 12: 4}[shape[1]])
            for image, index in zip(part['image'], part['index'], strict=True):
                assert index < 0 or (image == index).all()
            seen += [(shape, int(index)) for index in part['index'] if index >= 0]
    wanted = [((4, 4), i) for i in range(11)] + [((4, 4 + i // 4 * 4), i) for i in range(11)]
    assert sorted(seen) == sorted(wanted)


def test_few_images_wait_for_their_batches():
    """Those of one shape follow one another, so that batches of few shapes are begun at a time."""
    kinds = np.sort(np.random.default_rng(0).integers(9, size=400)).astype(np.int32)
    shapes = np.array([[4, 4 + i] for i in range(9)])
    scales = [views.Scale(1, shapes, kinds, (size,) * 9) for size in (16, 8)]
    waiting, most = {}, 0
    for step in views.schedule(np.arange(400), scales, 2):
        for image, _ in [row for rows in step.rows for row in rows]:
            waiting[image] = waiting.get(image, 0) + 1
            if waiting[image] == 2:
                del waiting[image]
        most = max(most, len(waiting))
    assert not waiting
    assert most <= 16


def test_sizes_are_those_of_the_images():
    np.testing.assert_array_equal(views.sizes(Numbered(), range(3)), [[4, 4]] * 3)
    assert views.sizes(Numbered(), range(0)).shape == (0, 2)

"""Several views of an image for evaluation, and batches of them. See cls.protocols for their use.

A view is a uint8 crop or the whole image, resized. Its mirror image is made on the device.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cls.data.resize import resize, resize_shorter, shorter_to
from cls.data.sources import Source


@dataclasses.dataclass(frozen=True)
class Views:
    """What is seen of each image: some views of one shape."""

    make: Callable[[np.ndarray], np.ndarray]  # (H, W, C) uint8 -> (count, h, w, C)
    count: int
    shape: Callable[[int, int], tuple[int, int]]  # (H, W) -> (h, w)
    fixed: bool = True  # (h, w) is the same for all images


def five_crops(image: np.ndarray, *, size: int) -> np.ndarray:
    """Four corners and the middle of (H, W, C): (5, size, size, C)."""
    height, width = image.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    corners = [(y, x) for y in (0, height - size) for x in (0, width - size)]
    return np.stack([image[y : y + size, x : x + size] for y, x in (*corners, (top, left))])


def squares(image: np.ndarray, where: Sequence[float]) -> list[np.ndarray]:
    """The largest squares of (H, W, C) at these places along the longer side.

    Args:
      image: (H, W, C).
      where: from 0, the left or top, to 1, the right or bottom.
    """
    height, width = image.shape[:2]
    side, found = min(height, width), []
    for place in where:
        top, left = round((height - side) * place), round((width - side) * place)
        found.append(image[top : top + side, left : left + side])
    return found


def corner_crops(
    image: np.ndarray, *, size: int, resize_to: int, interpolation: str = 'bilinear'
) -> np.ndarray:
    """Shorter side to `resize_to`, then `five_crops`."""
    return five_crops(resize_shorter(image, resize_to, interpolation), size=size)


def square_crops(
    image: np.ndarray,
    *,
    size: int,
    scales: Sequence[int],
    where: Sequence[float],
    interpolation: str = 'bilinear',
) -> np.ndarray:
    """Szegedy et al. 2015's views: of `squares` at several scales `five_crops` and the whole.

    Returns:
      (6 * scales * places, size, size, C): scale by scale, place by place.
    """
    found = []
    for scale in scales:
        for square in squares(resize_shorter(image, scale, interpolation), where):
            whole = resize(square, size, size, interpolation)
            found += [*five_crops(square, size=size), whole]
    return np.stack(found)


def whole_shape(height: int, width: int, *, scale: int, multiple: int) -> tuple[int, int]:
    """(H, W) of an image when its shorter side is `scale`, the excess of the longer one cut.

    What the longer side has more than the shorter becomes a multiple of `multiple`.
    """
    longer = max(shorter_to((height, width), scale))
    longer = scale + (longer - scale) // multiple * multiple
    return (scale, longer) if height <= width else (longer, scale)


def whole(
    image: np.ndarray, *, scale: int, multiple: int, interpolation: str = 'bilinear'
) -> np.ndarray:
    """The image at `whole_shape`, cut at both ends: (1, h, w, C)."""
    height, width = whole_shape(*image.shape[:2], scale=scale, multiple=multiple)
    image = resize_shorter(image, scale, interpolation)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[None, top : top + height, left : left + width]


def crops(make: Callable, count: int, size: int, **options) -> Views:
    """Returns the views of a function that makes crops of (size, size)."""
    make = functools.partial(make, size=size, **options)
    return Views(make, count, lambda height, width: (size, size))


def wholes(scale: int, multiple: int, interpolation: str) -> Views:
    """Returns the views of `whole`."""
    options = {'scale': scale, 'multiple': multiple}
    make = functools.partial(whole, **options, interpolation=interpolation)
    return Views(make, 1, functools.partial(whole_shape, **options), fixed=False)


def sizes(source: Source, indices: Sequence[int]) -> np.ndarray:
    """Returns (n, 2) heights and widths of these images; of a JPEG's the header is enough."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda i: source.read(i, lambda image: image.size)[0], map(int, indices))
        return np.array(list(found), np.int32).reshape(-1, 2)


def batches(
    source: Source,
    views: Views,
    indices: np.ndarray,
    shape: tuple[int, int],
    *,
    batch: int,
    process: tuple[int, int] = (0, 1),
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's share of the batches of all views of some images.

    Args:
      source: of the images.
      views: of them; all those of an image follow one another.
      indices: the images, of those whose views have the shape.
      shape: (h, w).
      batch: views in a global batch; process p of P has the p-th P-th of it.
      process: (index, count).

    Yields {'image': (n, h, w, C) uint8, 'label': (n,) int32, 'index': (n,) int32}, of which the
    last is the image's in the source, -1 where zeros fill up the last batch.
    """
    share = batch // process[1]
    steps = -(-len(indices) * views.count // batch)

    def example(index: int) -> tuple[np.ndarray, int]:
        found = source[index]
        return views.make(found['image']), found['label']

    def make(step: int) -> dict[str, np.ndarray]:
        at = step * batch + process[0] * share + np.arange(share)
        made = {
            'image': np.zeros((share, *shape, source.channels), np.uint8),
            'label': np.zeros(share, np.int32),
            'index': np.full(share, -1, np.int32),
        }
        at = at[at < len(indices) * views.count]
        made['index'][: len(at)] = indices[at // views.count]
        images = list(dict.fromkeys(made['index'][: len(at)].tolist()))
        for index, (seen, label) in zip(images, pool.map(example, images), strict=True):
            rows = np.flatnonzero(made['index'] == index)
            made['image'][rows] = seen[at[rows] % views.count]
            made['label'][rows] = label
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool, ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(make, 0)
        for step in range(1, steps + 1):
            ready = waiting.result()
            if step < steps:
                waiting = ahead.submit(make, step)
            yield ready

"""Batches with several views of each image, for cls.evaluation.protocols.

A view is a uint8 crop or the whole image, resized. Its mirror image is made on the device.
"""

import dataclasses
import functools
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cls.data.decode import MAX_PIXELS, Picture, Rules
from cls.data.resize import Resized, resize, shorter_to
from cls.data.sources import Source


@dataclasses.dataclass(frozen=True)
class Views:
    """A function that makes some views of an image, all of one shape."""

    make: Callable[[np.ndarray], np.ndarray]  # (H, W, C) uint8 -> (count, h, w, C)
    count: int
    shape: Callable[[int, int], tuple[int, int]]  # (H, W) -> (h, w)
    fixed: bool = True  # (h, w) is the same for all images


def five_places(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Returns top and left of (size, size) at the corners and the center of (height, width)."""
    corners = [(y, x) for y in (0, height - size) for x in (0, width - size)]
    return [*corners, (round((height - size) / 2), round((width - size) / 2))]


def square_places(height: int, width: int, where: Sequence[float]) -> list[tuple[int, int]]:
    """Returns top and left of the largest squares in (height, width), along the longer side.

    Args:
      height: Pixels.
      width: Pixels.
      where: Positions from 0, left or top, to 1, right or bottom.
    """
    side = min(height, width)
    return [(round((height - side) * place), round((width - side) * place)) for place in where]


def corner_crops(
    image: np.ndarray, *, size: int, resize_to: int, interpolation: str = 'bilinear'
) -> np.ndarray:
    """Returns the crops at `five_places` of an image with shorter side `resize_to`."""
    resized = _shorter_resized(image, resize_to, interpolation)
    places = five_places(*resized.shape, size)
    return np.stack([resized.window(y, x, size, size) for y, x in places])


def square_crops(
    image: np.ndarray,
    *,
    size: int,
    scales: Sequence[int],
    where: Sequence[float],
    interpolation: str = 'bilinear',
) -> np.ndarray:
    """Returns Szegedy et al. 2015's views: five crops and the whole of squares at several scales.

    Returns:
      (6 * scales * places, size, size, C): scale by scale, place by place.
    """
    views = []
    for scale in scales:
        resized = _shorter_resized(image, scale, interpolation)
        for top, left in square_places(*resized.shape, where):
            square = resized.window(top, left, scale, scale)
            places = five_places(scale, scale, size)
            views += [square[y : y + size, x : x + size] for y, x in places]
            views.append(resize(square, size, size, interpolation))
    return np.stack(views)


def _shorter_resized(image: np.ndarray, side: int, interpolation: str) -> Resized:
    return Resized(image, shorter_to(image.shape[:2], side), interpolation)


def whole_shape(height: int, width: int, *, scale: int, multiple: int) -> tuple[int, int]:
    """Returns (H, W) of an image with shorter side `scale` and the longer side cut.

    The longer side becomes the shorter side plus a multiple of `multiple`.
    """
    longer = max(shorter_to((height, width), scale))
    longer = scale + (longer - scale) // multiple * multiple
    return (scale, longer) if height <= width else (longer, scale)


def whole(
    image: np.ndarray,
    *,
    scale: int,
    multiple: int,
    interpolation: str = 'bilinear',
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Returns the image at `whole_shape`, cut at both ends: (1, h, w, C).

    Raises BrokenImage if that exceeds the limit on pixels.
    """
    height, width = whole_shape(*image.shape[:2], scale=scale, multiple=multiple)
    Rules(max_pixels=max_pixels).check(height, width)
    resized = _shorter_resized(image, scale, interpolation)
    top, left = (resized.shape[0] - height) // 2, (resized.shape[1] - width) // 2
    return resized.window(top, left, height, width)[None]


def crops(make: Callable, count: int, size: int, **options) -> Views:
    """Returns the views of a function that returns crops of (size, size)."""
    make = functools.partial(make, size=size, **options)
    return Views(make, count, lambda height, width: (size, size))


def wholes(scale: int, multiple: int, interpolation: str, max_pixels: int = MAX_PIXELS) -> Views:
    """Returns the views of `whole`."""
    options = {'scale': scale, 'multiple': multiple}
    make = functools.partial(whole, **options, interpolation=interpolation, max_pixels=max_pixels)
    return Views(make, 1, functools.partial(whole_shape, **options), fixed=False)


def sizes(source: Source, indices: Sequence[int]) -> np.ndarray:
    """Returns (n, 2) heights and widths of images; only the header of a JPEG is read."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        size: Any = operator.attrgetter('size')  # of a picture, in place of a crop of it
        shapes = pool.map(lambda i: source.read(i, size)[0], map(int, indices))
        return np.array(list(shapes), np.int32).reshape(-1, 2)


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
      source: The source of the images.
      views: The views of each image; they follow one another.
      indices: The images, all with views of this shape.
      shape: (h, w).
      batch: The number of views in a global batch; process p of P has the p-th of its P parts.
      process: (index, count).

    Yields {'image': (n, h, w, C) uint8, 'label': (n,) int32, 'index': (n,) int32}; index is that of
    the image in the source, -1 for the zeros that pad the last batch.
    """
    share = batch // process[1]
    steps = -(-len(indices) * views.count // batch)

    def seen(image: Picture) -> np.ndarray:
        return views.make(image.region(0, 0, *image.size, to=image.size)[0])

    def example(index: int) -> tuple[np.ndarray, int]:
        return source.read(index, seen)  # its errors name the image

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

"""Batches with several views of each image, for cls.evaluation.protocols.

A view is a uint8 crop or the whole image, resized. Its mirror image is made on the device.
"""

import dataclasses
import functools
import operator
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from cls.data.decode import MAX_PIXELS, Picture, Rules
from cls.data.resize import Planes, Resized, resize, resized, shorter_to
from cls.data.sources import Source

TOGETHER = 4096  # images whose sizes are read at a time
AHEAD = 2  # batches that are made ahead


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


def _shorter_resized(image: np.ndarray, side: int, interpolation: str) -> Resized | Planes:
    return resized(image, shorter_to(image.shape[:2], side), interpolation)


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
    size: Any = operator.attrgetter('size')  # of a picture, in place of a crop of it
    found = np.zeros((len(indices), 2), np.int32)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(indices), TOGETHER):  # the pool holds a task for each image
            part = indices[start : start + TOGETHER]
            shapes = pool.map(lambda i: source.read(i, size)[0], map(int, part))
            found[start : start + len(part)] = list(shapes)
    return found


# ------------------------------------------------------------------------------------------------
# Batches
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scale:
    """The shapes of the views of all images at one scale."""

    count: int  # views of an image
    shapes: np.ndarray  # (kinds, 2), (h, w), all different
    shape_of: np.ndarray  # (N,), the row of `shapes` of each image of the source
    batches: tuple[int, ...]  # the number of views in a global batch of each of the shapes


class Step(NamedTuple):
    """The views of one batch, as (image, number of the view) of each process."""

    scale: int
    kind: int  # the row of Scale.shapes
    rows: list[list[tuple[int, int]]]


Order = range | np.ndarray  # (n,) images of a source
# (images) -> for each image the views at each scale, each (count, h, w, C) uint8; labels
Reader = Callable[[Sequence[int]], tuple[list[list[np.ndarray]], Sequence[int]]]


def reader(source: Source, scales: Sequence[Views], pool: ThreadPoolExecutor) -> Reader:
    """Returns a function that decodes images, each once for its views at all scales."""

    def seen(image: Picture) -> Any:
        pixels = image.region(0, 0, *image.size, to=image.size)[0]
        return [views.make(pixels) for views in scales]

    def read(images: Sequence[int]) -> tuple[Any, Any]:
        # The errors of a source name the image.
        made = list(pool.map(lambda index: source.read(index, seen), images))
        return [views for views, _ in made], [label for _, label in made]

    return read


def schedule(order: Order, scales: Sequence[Scale], processes: int) -> Iterator[Step]:
    """Yields the steps of all processes; every view comes once.

    Image i of the order belongs to process i % processes and is decoded there once. A batch is full
    but for the last one of each shape. If images of one shape are in a row, few batches are begun
    at a time.

    Args:
      order: the images.
      scales: the scales of each image.
      processes: the number of processes.
    """
    left = [[scale.count * count for count in _counts(scale, order)] for scale in scales]
    begun: dict[tuple[int, int], list[list[tuple[int, int]]]] = {}
    for start in range(0, len(order), processes):
        images = [int(image) for image in order[start : start + processes]]
        for number, scale in enumerate(scales):
            kinds = [int(scale.shape_of[image]) for image in images]
            for view in range(scale.count):
                for process, (image, kind) in enumerate(zip(images, kinds, strict=True)):
                    key, share = (number, kind), scale.batches[kind] // processes
                    rows = begun.setdefault(key, [[] for _ in range(processes)])
                    if len(rows[process]) == share:
                        yield Step(*key, begun[key])
                        rows = begun[key] = [[] for _ in range(processes)]
                    rows[process].append((image, view))
                    left[number][kind] -= 1
                    if not left[number][kind]:
                        yield Step(*key, begun.pop(key))


def _counts(scale: Scale, order: Order) -> list[int]:
    """Returns the number of images of each shape."""
    if len(scale.shapes) == 1:
        return [len(order)]
    return np.bincount(scale.shape_of[order], minlength=len(scale.shapes)).tolist()


def batches(
    read: Reader,
    order: Order,
    scales: Sequence[Scale],
    channels: int,
    process: tuple[int, int] = (0, 1),
    label_as: tuple[tuple[int, ...], Any] = ((), np.int32),
) -> Iterator[dict[str, Any]]:
    """Yields this process's share of the batches of all views of some images.

    An image stays in memory from the first batch with one of its views to the last.

    Args:
      read: reads images, see `reader`.
      order: the images.
      scales: the scales of each image.
      channels: those of each image.
      process: (index, count); process p of P has the p-th of the P parts of a global batch.
      label_as: shape and type of a label.

    Yields {'image': (n, h, w, C) uint8, 'label': (n, ...), 'index': (n,) int32, 'views': int}.
    The index is that of the image in the source, -1 for the zeros that pad a batch; `views` is the
    number of views in the global batch, the same for every process.
    """
    shelf: dict[int, tuple[list[Any], int]] = {}  # image -> (views at each scale, label)
    total = sum(scale.count for scale in scales)
    used: dict[int, int] = {}  # image -> views that have been in a batch

    def make(step: Step) -> dict[str, Any]:
        scale, rows = scales[step.scale], step.rows[process[0]]
        share = scale.batches[step.kind] // process[1]
        made = {
            'image': np.zeros((share, *scale.shapes[step.kind], channels), np.uint8),
            'label': np.zeros((share, *label_as[0]), label_as[1]),
            'index': np.full(share, -1, np.int32),
            'views': sum(map(len, step.rows)),
        }
        missing = [image for image in dict.fromkeys(i for i, _ in rows) if image not in shelf]
        if missing:
            shelf.update(zip(missing, zip(*read(missing), strict=True), strict=True))
        for row, (image, view) in enumerate(rows):
            views, label = shelf[image]
            made['image'][row] = views[step.scale][view]
            made['label'][row], made['index'][row] = label, image
            used[image] = used.get(image, 0) + 1
            if view == scale.count - 1:
                views[step.scale] = None
            if used[image] == total:
                del used[image], shelf[image]
        return made

    with ThreadPoolExecutor(1) as ahead:
        waiting: deque[Future] = deque()
        for step in schedule(order, scales, process[1]):
            waiting.append(ahead.submit(make, step))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

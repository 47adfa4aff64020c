"""Readers: (indices of examples, their positions) -> uint8 images of one size, and labels."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cls.data import order, transforms
from cls.data.sources import MEMORY_LIMIT, InMemory, Source
from cls.data.spec import DataSpec

Reader = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _take(
    indices: np.ndarray,
    at: np.ndarray,
    *,
    source: InMemory,
    pad: int = 0,
    border: transforms.Border = (0,),
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads images of the final size, all at once; pads and crops them if pad is not 0."""
    images, labels = source.take(indices)
    if pad:
        offsets = order.pad_offsets(order.key(seed, order.CROP), at, pad)
        images = transforms.pad_crop(images, offsets, size=images.shape[1], pad=pad, border=border)
    return images, labels


def _read(
    indices: np.ndarray,
    at: np.ndarray,
    *,
    source: Source,
    crop: Callable[..., np.ndarray],
    size: int,
    threads: int,
    stream: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads images and crops them to `size`, in `threads` threads (0: in the caller's).

    With a stream of random numbers, the crop of an image uses the numbers of its position.
    """
    crops = [crop] * len(at)
    if stream is not None:
        crops = [functools.partial(crop, rng=draws) for draws in order.draws(stream, at)]

    images = np.empty((len(at), size, size, source.channels), np.uint8)
    labels = np.empty((len(at), *source.label_shape), source.label_dtype)

    def part(rows: range) -> None:
        for row in rows:
            images[row], labels[row] = source.read(int(indices[row]), crops[row])

    # A task for each image would cost a tenth of the time of its decoding.
    count = min(max(1, threads), len(at))
    parts = [range(first, len(at), count) for first in range(count)]
    list((_pool(threads).map if threads else map)(part, parts))  # raises the errors of the parts
    return images, labels


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix='images')


def train_reader(source: Source, data: DataSpec, seed: int, threads: int) -> Reader:
    """Returns the function from positions to training images and labels."""
    crop = transforms.train_crop(data)
    if ready := ready_images(source, data):
        border = transforms.border(data)
        return functools.partial(_take, source=ready, pad=padding(data), border=border, seed=seed)
    stream = order.key(seed, order.CROP)
    size = data.image_size
    return functools.partial(
        _read, source=source, crop=crop, size=size, threads=threads, stream=stream
    )


def ready_images(source: Source, data: DataSpec) -> InMemory | None:
    """Returns the training images before padding and crop, if they are equal in all epochs.

    None if they are not in memory, or would not fit at the size of the network's input.
    """
    if data.train_crop in ('none', 'pad') and (ready := _at_size(source, data, data.image_size)):
        return ready
    # These images measure a step without its input.
    if data.name == 'synthetic' and isinstance(source, InMemory):
        return _resized(source, data, data.image_size)
    return None


def padding(data: DataSpec) -> int:
    """Returns the pixels that are added on every side of `ready_images` before their crop."""
    return data.pad if data.train_crop == 'pad' else 0


def eval_reader(source: Source, data: DataSpec, threads: int) -> Reader:
    """Returns the function from positions to evaluation images and labels."""
    crop = transforms.eval_crop(data)
    size = data.eval_pixels
    whole = data.eval_resize in (0, size) and not data.is_squashed
    if whole and (ready := _at_size(source, data, size)):
        return functools.partial(_take, source=ready)
    if data.name == 'synthetic' and isinstance(source, InMemory) and source.shape[0] == size:
        return functools.partial(_take, source=source)
    return functools.partial(_read, source=source, crop=crop, size=size, threads=threads)


def _at_size(source: Source, data: DataSpec, size: int) -> InMemory | None:
    """Returns a source in memory with all images resized, or None if they would not fit."""
    if not isinstance(source, InMemory):
        return None
    if source.shape[:2] == (size, size):
        return source
    if len(source) * size * size * source.channels > MEMORY_LIMIT:
        return None
    return _resized(source, data, size)


def _resized(source: InMemory, data: DataSpec, size: int) -> InMemory:
    if source.shape[:2] == (size, size):
        return source
    return source.mapped(
        functools.partial(
            transforms.center_crop,
            size=size,
            resize_to=size,
            interpolation=data.interpolation,
        )
    )


def reading_threads(source: Source) -> int:
    """Returns the number of threads that decode at once, and one more to read files meanwhile.

    0 for images in memory: Python's lock is the limit there.
    """
    return 0 if isinstance(source, InMemory) else (os.cpu_count() or 1) + 1

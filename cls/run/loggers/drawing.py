"""Images for loggers: a batch of images in a grid, and a confusion matrix."""

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

_SIDE = 512  # pixels of the image of a confusion matrix, if its classes are not more
_DARK = np.array([8, 48, 107], np.float64)  # the color of a class that is always predicted so
LISTED = 100  # classes of the largest confusion matrix that is shown as a table


def grid(images: np.ndarray, gap: int = 1) -> np.ndarray:
    """Returns images (N, H, W, C) uint8, C 1 or 3, side by side in one image (..., 3) uint8."""
    count, height, width, _ = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap), columns * (width + gap), 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet[: rows * (height + gap) - gap, : columns * (width + gap) - gap]


def heat_map(counts: np.ndarray) -> np.ndarray:
    """Returns an image (S, S, 3) uint8 of a confusion matrix (K, K), each row by its sum.

    White is none of the images of a class, dark blue all of them. A cell is at least one pixel.
    """
    parts = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    colors = 255 + parts[..., None] * (_DARK - 255)
    side = max(1, _SIDE // len(counts))
    return np.rint(colors).astype(np.uint8).repeat(side, 0).repeat(side, 1)


def png(image: np.ndarray) -> bytes:
    """Returns an image (H, W, 3) uint8 as PNG."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, 'PNG')
    return content.getvalue()


def named(classes: Sequence[str], count: int) -> list[str]:
    """Returns the names of `count` classes; those without a name have their number."""
    return [*classes, *map(str, range(len(classes), count))]

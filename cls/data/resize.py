"""Resizing of (H, W, C) uint8 images with the filters of the published models.

`config.data.interpolation`:
  bilinear, bicubic: Pillow's antialiased filters, as torchvision and timm apply to PIL images.
  nearest: Pillow's too, single pixels of the original, as in transformers' EfficientNet.
  tf_bilinear, tf_bicubic: tf.image.resize(antialias=False) of TensorFlow 2, that is with
    half-pixel centers; TensorFlow 1's resize functions put the centers of pixels at their corners.
"""

import functools
from typing import Any

import cv2
import numpy as np
from PIL import Image

INTERPOLATIONS = ('bilinear', 'bicubic', 'nearest', 'tf_bilinear', 'tf_bicubic')
PILLOW = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}
_STRONG = 16  # the least reduction at which Pillow's filter is the faster one
_SPARE = 32  # a resized image of at most this many times a window's pixels is made in full
_PART = 0.6  # a window of at most this part is made alone faster than in the whole image
_PILLOW_13 = int(Image.__version__.split('.')[0]) >= 13
_LONGEST = 1 << 20  # pixels of a side that Pillow can be expected to make
_BITS = 22  # fractional bits of Pillow's integer weights

Box = tuple[float, float, float, float]  # top, left, height, width


def resize(
    image: np.ndarray,
    height: int,
    width: int,
    interpolation: str = 'bilinear',
    box: Box | None = None,
    *,
    roughly: bool = False,
) -> np.ndarray:
    """Resizes (H, W, C), or a box (top, left, height, width) of it, to (height, width, C).

    The edges of the box may be fractions of pixels, except for TensorFlow's filters, for which the
    box must be the whole image. `roughly` makes bilinear three times as fast, for training.

    Differences from Pillow and TensorFlow (rounded to integers) on photographs, in levels:

      bilinear, bicubic,   none
      nearest
      bilinear, roughly    root mean square 2 in the median image and 8 at most, largest about 50
                           (on sharp edges)
      tf_bilinear          largest 1
      tf_bicubic           largest 1
    """
    full_box = (0, 0, *image.shape[:2])
    box = box or full_box
    if image.shape[:2] == (height, width) and box == full_box:
        return image
    if image.shape[2] not in (1, 3):
        every = Planes(image, (height, width), interpolation, box, roughly)
        return every.window(0, 0, height, width)
    if interpolation.startswith('tf_'):
        if box != full_box:
            raise ValueError(f'{interpolation} cannot resize a box, {box}')
        resized = (_tf_bilinear if interpolation == 'tf_bilinear' else _tf_bicubic)(
            image, height, width
        )
    elif interpolation == 'nearest':
        resized = _nearest_window(image, (height, width), (0, height), (0, width), '', box)
    elif roughly and interpolation == 'bilinear' and max(box[2] / height, box[3] / width) < _STRONG:
        resized = _rough_bilinear(image, height, width, box)
    else:
        resized = _pillow(image, height, width, interpolation, box)
    return resized.reshape(height, width, image.shape[2])  # some filters drop a single channel


def shorter_to(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Returns the (height, width) of an image whose shorter side is resized to `side`.

    The longer side is rounded down, as in torchvision, and so in timm.
    """
    height, width = shape
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


class Resized:
    """An image (H, W, C) or a box of it, resized to (height, width) and read in windows.

    If the resized image would be very large, only the windows are made, with the same pixels: an
    image of 1 x 1,000,000, resized to 256 pixels on its shorter side, has 65 billion.

    Args:
      image: (H, W, C) uint8.
      to: (height, width).
      interpolation, box, roughly: See `resize`.
    """

    def __init__(
        self,
        image: np.ndarray,
        to: tuple[int, int],
        interpolation: str = 'bilinear',
        box: Box | None = None,
        roughly: bool = False,
    ):
        self.shape = to
        self._image, self._interpolation, self._roughly = image, interpolation, roughly
        self._box = box or (0, 0, *image.shape[:2])
        self._whole = None

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Returns the pixels (height, width, C) of a window of the resized image."""
        if self._whole is None and self.shape[0] * self.shape[1] > _SPARE * height * width:
            make = _WINDOWS.get(self._interpolation, _tf_window)
            rows, columns = (top, height), (left, width)
            return make(self._image, self.shape, rows, columns, self._interpolation, self._box)
        if self._whole is None:
            self._whole = resize(
                self._image, *self.shape, self._interpolation, self._box, roughly=self._roughly
            )
        return self._whole[top : top + height, left : left + width]

    def only_window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Returns the pixels of `window`, faster if no other window is read."""
        part = height * width / (self.shape[0] * self.shape[1])
        rough = self._roughly and self._interpolation == 'bilinear'
        if part > _PART or rough or self._interpolation not in PILLOW:
            return self.window(top, left, height, width)
        rows, columns = (top, height), (left, width)
        box = self._box
        return _pillow_window(self._image, self.shape, rows, columns, self._interpolation, box)


class Planes:
    """A `Resized` of any number of channels: each is resized as a gray image.

    Pillow would multiply the colors of four channels by the last one, and takes no other numbers.
    """

    def __init__(self, image: np.ndarray, *args: Any, **kwargs: Any):
        self._planes = [
            Resized(np.ascontiguousarray(image[..., channel, None]), *args, **kwargs)
            for channel in range(image.shape[2])
        ]
        self.shape = self._planes[0].shape

    def window(self, *window: int) -> np.ndarray:
        """Returns the pixels (height, width, C) of a window of the resized image."""
        return np.concatenate([plane.window(*window) for plane in self._planes], -1)

    def only_window(self, *window: int) -> np.ndarray:
        """Returns the pixels of `window`, faster if no other window is read."""
        return np.concatenate([plane.only_window(*window) for plane in self._planes], -1)


def resized(image: np.ndarray, *args: Any, **kwargs: Any) -> Resized | Planes:
    """Returns an image (H, W, C) to be read in windows; arguments are those of `Resized`."""
    return (Resized if image.shape[2] in (1, 3) else Planes)(image, *args, **kwargs)


def _pillow(image: np.ndarray, height: int, width: int, interpolation: str, box: Box) -> np.ndarray:
    pillow = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    top, left, rows, columns = box
    edges = left, top, min(left + columns, pillow.width), min(top + rows, pillow.height)
    return np.asarray(pillow.resize((width, height), PILLOW[interpolation], edges))


def _rough_bilinear(image: np.ndarray, height: int, width: int, box: Box) -> np.ndarray:
    """Returns nearly the pixels of Pillow's bilinear filter, in a third of its time.

    Pillow's filter for a reduction by s is a triangle of half-width s, with variance s²/6. A
    Gaussian of variance (s² - 1)/6 before OpenCV's bilinear interpolation (a triangle of
    half-width 1) has the same total variance. On photographs this is closer to Pillow than
    INTER_AREA (a box); it is slower for strong reductions (500 pixels to 64, but not to 128).
    Enlarging is plain bilinear interpolation in both.
    """
    reduction = np.maximum([box[2] / height, box[3] / width], 1.0)
    sigma_y, sigma_x = np.sqrt((reduction**2 - 1) / 6)
    if sigma_x or sigma_y:
        # OpenCV takes zero for 'as the other axis'; 1e-3 makes a kernel of one pixel.
        image = cv2.GaussianBlur(
            image,
            (0, 0),
            sigmaX=max(sigma_x, 1e-3),
            sigmaY=max(sigma_y, 1e-3),
            borderType=cv2.BORDER_REFLECT,
        )
    if box == (0, 0, *image.shape[:2]):
        return _tf_bilinear(image, height, width)
    # cv2.resize takes no box. Pixel i of the new image is at (i + 1/2) * step - 1/2 in the box.
    step_y, step_x = box[2] / height, box[3] / width
    from_new = np.array(
        [[step_x, 0, box[1] + (step_x - 1) / 2], [0, step_y, box[0] + (step_y - 1) / 2]]
    )
    return cv2.warpAffine(
        image,
        from_new,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _pillow_window(
    image: np.ndarray,
    to: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
    interpolation: str,
    box: Box,
) -> np.ndarray:
    """Returns rows and columns, (first, count) each, of an image resized as Pillow does it.

    The pixels equal Pillow's to the bit: it filters one axis after the other, with rounding in
    between, and with integer weights. `Image.resize(box=...)` itself would not return the same
    pixels, because it takes the edges of a box in single precision.
    """
    y, down = _pillow_taps(image.shape[0], box[0], box[2], to[0], *rows, interpolation)
    x, across = _pillow_taps(image.shape[1], box[1], box[3], to[1], *columns, interpolation)
    image = image[y.min() : y.max() + 1, x.min() : x.max() + 1]
    y, x = y - y.min(), x - x.min()
    if to[0] < box[2] and _columns_first(box, to):
        image = _transposed(_weighted(image, y, down))
        return _transposed(_weighted(image, x, across))
    image = _transposed(_weighted(_transposed(image), x, across))
    return _weighted(image, y, down)


def _nearest_window(
    image: np.ndarray,
    to: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
    interpolation: str,
    box: Box,
) -> np.ndarray:
    """Returns rows and columns, (first, count) each, of an image resized to single pixels of it."""
    del interpolation
    places = []
    for axis, (first, count) in enumerate((rows, columns)):
        start, length = box[axis], image.shape[axis]
        step = (min(start + box[axis + 2], length) - start) / to[axis]
        if to[axis] <= _LONGEST:  # Pillow adds up the positions, and their rounding
            at = np.full(first + count, step)
            at[0] = start + 0.5 * step
            at = np.cumsum(at)[first:]
        else:
            at = start + (np.arange(first, first + count) + 0.5) * step
        places.append(np.minimum(at.astype(np.int64), length - 1))
    return image[places[0][:, None], places[1]]


_WINDOWS = {
    'bilinear': _pillow_window,
    'bicubic': _pillow_window,
    'nearest': _nearest_window,
}


def _columns_first(box: Box, to: tuple[int, int]) -> bool:
    """Returns whether Pillow filters the columns of a reduced image before its rows.

    See findings/pillow13_resize_order.sh; before Pillow 13 this is so only for strips.
    """
    if _PILLOW_13:
        return box[2] - to[0] > 2 * (box[3] - to[1])
    return box[2] > 100 * box[3]


def _transposed(image: np.ndarray) -> np.ndarray:
    """Returns (W, H, C) of an image (H, W, C), contiguous."""
    return cv2.transpose(image).reshape(image.shape[1], image.shape[0], -1)


def _weighted(image: np.ndarray, at: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns weighted sums of an image's rows, rounded to uint8.

    The sums fit int32: the weights of one sign are less than 1.25, times 255, times 2 ** _BITS.
    """
    rows = image.reshape(len(image), -1)
    total = rows[at[0]] * weights[0][:, None]
    product = np.empty_like(total)
    for places, factors in zip(at[1:], weights[1:], strict=True):
        total += np.multiply(rows[places], factors[:, None], out=product)
    total += 1 << _BITS - 1
    total >>= _BITS
    if weights.min() < 0:  # only then a sum may exceed the values
        total = np.clip(total, 0, 255, out=total)
    return total.astype(np.uint8).reshape(-1, *image.shape[1:])


def _pillow_taps(
    length: int, start: float, span: float, to: int, first: int, count: int, interpolation: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the input pixels of each output pixel and their weights, both (taps, count) int32.

    The operations are those of Pillow's Resample.c, in the same order.

    Args:
      length: The number of input pixels on this axis.
      start: The start of the resized part.
      span: The length of the resized part.
      to: The number of output pixels of that part.
      first: The first output pixel to return.
      count: The number of output pixels to return.
      interpolation: bilinear or bicubic.
    """
    scale = (np.float32(min(start + span, length)) - np.float32(start)).astype(np.float64) / to
    stretch = max(scale, 1.0)
    support = (1.0 if interpolation == 'bilinear' else 2.0) * stretch
    center = np.float32(start) + (np.arange(first, first + count) + 0.5) * scale
    low = np.maximum((center - support + 0.5).astype(np.int64), 0)
    high = np.minimum((center + support + 0.5).astype(np.int64), length)
    at = low + np.arange((high - low).max())[:, None]
    weights = (_triangle if interpolation == 'bilinear' else _cubic)(
        abs((at - center + 0.5) * (1.0 / stretch))
    )
    weights = np.where(at < high, weights, 0.0)
    total = np.zeros(count)
    for row in weights:  # np.sum would add in another order
        total += row
    weights = np.where(total != 0, weights / np.where(total != 0, total, 1), weights)
    weights = np.trunc(weights * (1 << _BITS) + np.where(weights < 0, -0.5, 0.5))
    return np.minimum(at, length - 1).astype(np.int32), weights.astype(np.int32)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.where(x < 1, 1 - x, 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Returns Keys' cubic with a = -1/2 at distances x >= 0; OpenCV's has a = -3/4."""
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _tf_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _tf_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return _tf_window(image, (height, width), (0, height), (0, width), 'tf_bicubic')


def _tf_window(
    image: np.ndarray,
    to: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
    interpolation: str,
    box: Box | None = None,
) -> np.ndarray:
    """Returns rows and columns, (first, count) each, of a resized image; not antialiased."""
    if box not in (None, (0, 0, *image.shape[:2])):
        raise ValueError(f'{interpolation} cannot resize a box, {box}')
    linear = interpolation == 'tf_bilinear'
    y, down = _tf_taps(image.shape[0], to[0], *rows, linear)
    x, across = _tf_taps(image.shape[1], to[1], *columns, linear)
    image = image[:, x.min() : x.max() + 1]
    passes = [(0, y, down), (1, x - x.min(), across)]
    if rows[1] * image.shape[1] > 4 * image.shape[0] * columns[1]:  # for example a strip
        passes.reverse()
    resized: Any = image
    for axis, at, weights in passes:
        resized = sum(
            (w[None, :, None] if axis else w[:, None, None]) * resized.take(taps, axis)
            for taps, w in zip(at, weights, strict=True)
        )
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _tf_taps(
    length: int, to: int, first: int, count: int, linear: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the input pixels of each output pixel and their weights, both (taps, count).

    Beyond the border, the linear filter repeats pixels; the cubic filter leaves them out and
    normalizes the other weights to a sum of one.
    """
    at = (np.arange(first, first + count) + 0.5) * (length / to) - 0.5
    taps = np.floor(at) + (np.arange(2) if linear else np.arange(-1, 3))[:, None]
    weights = (_triangle if linear else _cubic)(abs(at - taps))
    if not linear:
        weights = np.where((taps >= 0) & (taps < length), weights, 0)
        weights = weights / weights.sum(axis=0)
    return np.clip(taps, 0, length - 1).astype(np.int64), weights.astype(np.float32)

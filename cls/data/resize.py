"""Resizing (H, W, C) uint8 images by the filters with which published nets were trained.

`config.data.interpolation`:
  bilinear, bicubic: Pillow's antialiased filters, what torchvision and timm do to PIL images.
  tf_bilinear, tf_bicubic: tf.image.resize(antialias=False) of TensorFlow 2, that is with
    half-pixel centres; TensorFlow 1's resize functions put pixels' centres at their corners.
"""

import functools

import cv2
import numpy as np
from PIL import Image

INTERPOLATIONS = ('bilinear', 'bicubic', 'tf_bilinear', 'tf_bicubic')


def resize(
    image: np.ndarray,
    height: int,
    width: int,
    interpolation: str = 'bilinear',
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Resizes (H, W, C), or a box (top, left, height, width) of it, to (height, width, C).

    Edges of the box may lie inside of pixels, but not for TensorFlow's filters.

    Differences from Pillow and TensorFlow (rounded to integers) on photographs, in levels:

      bilinear      root mean square under 1, mean under 0.8, largest about 25 (on sharp edges)
      bicubic       none, it is Pillow that resizes
      tf_bilinear   largest 1
      tf_bicubic    largest 1
    """
    whole = (0, 0, *image.shape[:2])
    box = box or whole
    if image.shape[:2] == (height, width) and box == whole:
        return image
    if interpolation.startswith('tf_'):
        if box != whole:
            raise ValueError(f'{interpolation} of a part, {box}')
        resized = (_tf_bilinear if interpolation == 'tf_bilinear' else _tf_bicubic)(
            image, height, width
        )
    else:
        resized = (_bilinear if interpolation == 'bilinear' else _bicubic)(
            image, height, width, box
        )
    return resized.reshape(height, width, image.shape[2])  # some drop a single channel


def resize_shorter(image: np.ndarray, side: int, interpolation: str = 'bilinear') -> np.ndarray:
    """Resizes so that the shorter side is `side`; the longer one is rounded down."""
    return resize(image, *shorter_to(image.shape[:2], side), interpolation)


def shorter_to(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Returns the (height, width) that `resize_shorter` resizes images of this shape to."""
    height, width = shape
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _bilinear(image: np.ndarray, height: int, width: int, box: tuple) -> np.ndarray:
    """Close to Pillow's filter, in a third of its time.

    Pillow's filter for a reduction by s is a triangle of half-width s, with variance s²/6. A
    Gaussian of variance (s² - 1)/6 before OpenCV's bilinear interpolation (a triangle of
    half-width 1) comes to the same variance. On photographs this is nearer to Pillow than
    INTER_AREA (a box); it is slower for strong reductions (500 pixels to 64, not yet to 128).
    Enlarging is plain bilinear in both.
    """
    reduction = np.maximum([box[2] / height, box[3] / width], 1.0)
    sigma_y, sigma_x = np.sqrt((reduction**2 - 1) / 6)
    if sigma_x or sigma_y:
        # Zero would mean 'as the other axis' to OpenCV; this little is a kernel of one pixel.
        image = cv2.GaussianBlur(
            image,
            (0, 0),
            sigmaX=max(sigma_x, 1e-3),
            sigmaY=max(sigma_y, 1e-3),
            borderType=cv2.BORDER_REFLECT,
        )
    if box == (0, 0, *image.shape[:2]):
        return _tf_bilinear(image, height, width)
    # cv2.resize takes no box. Pixel i of the new image lies at (i + 1/2) * step - 1/2 in the box.
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


def _bicubic(image: np.ndarray, height: int, width: int, box: tuple) -> np.ndarray:
    pillow = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    top, left, rows, columns = box
    edges = left, top, min(left + columns, pillow.width), min(top + rows, pillow.height)
    return np.asarray(pillow.resize((width, height), Image.Resampling.BICUBIC, edges))


def _tf_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _tf_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Keys' cubic with a = -1/2 on four pixels; OpenCV's has -3/4, Pillow's is antialiased."""
    rows, weights = _cubic_taps(image.shape[0], height)
    resized = sum(w[:, None, None] * image[row] for row, w in zip(rows, weights, strict=True))
    columns, weights = _cubic_taps(image.shape[1], width)
    resized = sum(
        w[None, :, None] * resized[:, column] for column, w in zip(columns, weights, strict=True)
    )
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _cubic_taps(length: int, to: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels that each new pixel is made of and their weights, both (4, to).

    Weights of pixels beyond the border are zero, and the others sum to one.
    """
    at = (np.arange(to) + 0.5) * (length / to) - 0.5
    taps = np.floor(at) + np.arange(-1, 3)[:, None]
    x = abs(at - taps)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0))
    weights = np.where((taps >= 0) & (taps < length), weights, 0)
    weights = (weights / weights.sum(axis=0)).astype(np.float32)
    return np.clip(taps, 0, length - 1).astype(np.int64), weights

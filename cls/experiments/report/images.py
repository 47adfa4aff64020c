"""Images of a report, embedded in the page."""

import base64

import cv2
import numpy as np

from cls.data.classes import words
from cls.experiments.report.data import Mistake
from cls.experiments.report.html import Html, tag

_SMALL = 64  # pixels: smaller images keep every pixel, as PNG
_QUALITY = 88  # of JPEG


def embedded(pixels: np.ndarray, alt: str) -> Html:
    """Returns an image element that holds its content.

    Args:
      pixels: (height, width, C) uint8; of 1 or 3 channels, of others the first is shown.
      alt: a description.
    """
    small = max(pixels.shape[:2]) < _SMALL
    shown = pixels[..., ::-1] if pixels.shape[2] == 3 else pixels[..., :1]
    options = [] if small else [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    _, content = cv2.imencode('.png' if small else '.jpg', np.ascontiguousarray(shown), options)
    kind = 'png' if small else 'jpeg'
    address = f'data:image/{kind};base64,{base64.b64encode(content.tobytes()).decode()}'
    return tag('img', src=address, alt=alt, class_='small' if small else None)


def card(mistake: Mistake) -> Html:
    """Returns a wrong prediction: the image, its two heat maps, and the names."""
    row = mistake.values
    own, guess = (_words(row[key]) for key in ('class', 'prediction'))
    shown = [
        _captioned(mistake.pixels, 'image'),
        _captioned(mistake.of_prediction, f'for {guess}'),
        _captioned(mistake.of_class, f'for {own}'),
    ]
    sentence = tag(
        'p',
        tag('span', guess, class_='wrong'),
        f' {100 * row["probability"]:.2f} %, is ',
        tag('span', own, class_='right'),
    )
    name = row.get('image', f'image {row["index"]:,}')
    return tag(
        'div',
        tag('div', *shown, class_='images'),
        sentence,
        tag('p', name, class_='note'),
        class_='card',
    )


def _captioned(pixels: np.ndarray, caption: str) -> Html:
    return tag('figure', embedded(pixels, caption), tag('figcaption', caption))


def _words(label: str | int) -> str:
    return words(label) if isinstance(label, str) else str(label)

"""The model that is exported: its function, its description, and images to check it with."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from cls.errors import UserError

TOLERANCE = 1e-4  # of the spread of the outputs of an image
INSIDE = 10**9  # bytes; larger weights are written to a file of their own


@dataclasses.dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
      module: maps normalized images (N, H, W, C) to logits (N, num_classes).
      variables: its variables, of NumPy or JAX arrays.
      size: height and width of the images.
      channels: channels of the images.
      normalize: maps pixels in 0..255 (N, H, W, C) to the input of the module.
      pixels: whether the artefact takes uint8 pixels and gives probabilities, with normalization
        and softmax or sigmoid inside, instead of normalized images and logits.
      classes: the labels of the outputs, () if unknown.
      description: further entries of the metadata: name, origin, license, preparation of images.
      multi_label: whether an image may have any number of classes: probabilities are sigmoids.
    """

    module: nn.Module
    variables: Any
    size: int
    channels: int
    normalize: Callable[[Any], Any]
    pixels: bool = False
    classes: Sequence[str] = ()
    description: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    multi_label: bool = False

    @property
    def dtype(self) -> np.dtype:
        """The type of the images."""
        return np.dtype(np.uint8 if self.pixels else np.float32)

    @property
    def output_name(self) -> str:
        """The name of the output."""
        return 'probabilities' if self.pixels else 'logits'

    def compute(self, images: Any) -> Any:
        """Returns the output (N, num_classes) for images (N, H, W, C)."""
        x = self.normalize(images) if self.pixels else images
        logits: Any = self.module.apply(self.variables, x, train=False)
        logits = logits.astype(jnp.float32)
        if not self.pixels:
            return logits
        return jax.nn.sigmoid(logits) if self.multi_label else jax.nn.softmax(logits, axis=-1)

    def spec(self, *shape: Any) -> jax.ShapeDtypeStruct:
        """Returns the shape and type of images (N, H, W), which may be symbolic."""
        return jax.ShapeDtypeStruct((*shape, self.channels), self.dtype)

    def spec_of_any_number(self) -> jax.ShapeDtypeStruct:
        """Returns the shape and type of images of the model's size, of a symbolic number N."""
        (count,) = export.symbolic_shape('N')
        return self.spec(count, self.size, self.size)

    def samples(self, count: int, size: int = 0) -> np.ndarray:
        """Returns images to compare outputs on, each with a frequency, colors and noise of its own.

        Args:
          count: their number.
          size: height and width; 0: that of the model.
        """
        size, rng = size or self.size, np.random.default_rng(0)
        rows, columns = np.meshgrid(*(np.linspace(0, 1, size),) * 2, indexing='ij')
        shape = (count, 1, 1, self.channels)
        wave = (
            rng.uniform(-40, 40, shape) * rows[..., None]
            + rng.uniform(-40, 40, shape) * (columns[..., None])
        )
        level, noise = rng.uniform(60, 190, shape), rng.normal(0, 25, (count, size, size, 1))
        pixels = np.clip(level + 60 * np.sin(wave) + noise, 0, 255).astype(np.uint8)
        return pixels if self.pixels else np.asarray(self.normalize(pixels), np.float32)

    def metadata(self, **more: Any) -> dict[str, Any]:
        """Returns the description of an artefact, for JSON."""
        return {
            **self.description,
            'input': {
                'name': 'images',
                'shape': ['N', self.size, self.size, self.channels],
                'type': self.dtype.name,
                'values': 'pixels, 0 to 255' if self.pixels else 'normalized, see preparation',
            },
            'output': self.output_name,
            'classes': list(self.classes),
            'multi_label': self.multi_label,
            **more,
        }


def difference(actual: np.ndarray, expected: np.ndarray, probabilities: bool = False) -> float:
    """Returns the largest difference of outputs (N, num_classes), in spreads of an image's outputs.

    Of probabilities it is in units of an image's largest one: where a network is sure, that is 30
    times the spread of 1,000 probabilities, and rounding would be 30 times as large as of logits.

    Infinite for another shape, and for outputs that are not finite.
    """
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float('inf')
    scale = (expected.max(axis=1) if probabilities else expected.std(axis=1)).mean() or 1.0
    return float(np.abs(actual - expected).max() / scale)


def check(source: Source, images: np.ndarray, actual: np.ndarray, what: str) -> float:
    """Returns `difference` between the outputs of an artefact and those of the model.

    Args:
      source: the model.
      images: the images.
      actual: the outputs of the artefact.
      what: the name of the artefact.

    Raises UserError if it is too large.
    """
    expected = np.asarray(jax.jit(source.compute)(images))
    result = difference(actual, expected, source.pixels)
    if not result < TOLERANCE:
        unit = 'largest of its probabilities' if source.pixels else 'spread of its outputs'
        raise UserError(
            f'{what} differs from the model by {result:.2g} of the {unit}: expected '
            f'less than {TOLERANCE:g}; nothing was written.'
        )
    return result

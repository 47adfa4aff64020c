"""An ensemble as a model: several models, and the mean of their probabilities."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from cls.errors import UserError
from cls.inference.model import Model
from cls.inference.preprocess import Image, Images, Preprocess, split
from cls.inference.stream import Result


class Ensemble(Model):
    """Several models of the same classes, with the mean of their probabilities.

    `cls.load` makes one of the run folder of an ensemble. Each model prepares the images in its own
    way. Layers, maps and weights are those of a single model: see `members`.

    Attributes:
      members: the models.
      classes: the label of each output; () if they are unknown.
      variant: the names of the variants, with + between them.
      source: the origin of the weights.
      license: the licenses of the weights, '' if unknown.
    """

    def __init__(self, members: Sequence[Model], *, source: str = '') -> None:
        """Takes the models.

        Args:
          members: the models, at least one.
          source: the origin of the weights.

        Raises UserError for models of different classes.
        """
        first = members[0]
        for member in members:
            if (member.num_classes, member.classes) != (first.num_classes, first.classes):
                raise UserError(
                    f'{member.source} and {first.source} have different classes: expected models '
                    'of the same classes, in the same order.'
                )
            if member.multi_label != first.multi_label:
                raise UserError(
                    f'an image has several classes for one of {member.source} and {first.source}, '
                    'and one for the other: expected models that agree.'
                )
        self.multi_label = first.multi_label
        self.members, self.classes, self.source = tuple(members), first.classes, source
        self.variant = '+'.join(member.variant for member in members)
        self.license = ', '.join(dict.fromkeys(m.license for m in members if m.license))

    @property
    def num_classes(self) -> int:
        """The number of outputs."""
        return self.members[0].num_classes

    @property
    def batch(self) -> int:
        """Images that each model computes together, on each device."""
        return self.members[0].batch

    @batch.setter
    def batch(self, count: int) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        for member in self.members:
            member.batch = count

    @property
    def preprocess(self) -> Preprocess:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The preparation of images. Raises UserError if the models have different ones."""
        first = self.members[0].preprocess
        if any(member.preprocess != first for member in self.members):
            raise self._missing('one preparation of images: its models have different ones')
        return first

    def __repr__(self) -> str:
        """Returns a short description: the models, classes, source."""
        return (
            f'Ensemble({self.variant}, {self.num_classes:,} classes, from '
            f'{self.source or "nothing"!r})'
        )

    def __call__(self, images: Images) -> np.ndarray:
        """Returns the mean of the probabilities, (N, num_classes) float32. As of a `Model`."""
        each = [image for _, image in split(images)[0]]  # an iterator could be read only once
        return _mean([member(each) for member in self.members])

    def of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the probabilities of prepared images, if all models prepare them alike."""
        prepared = self.preprocess  # refuses different ones
        del prepared
        return _mean([member.of_pixels(pixels) for member in self.members])

    def stream(self, images: Iterable[tuple[str, Image]], **options: Any) -> Iterator[Result]:
        """Yields the result of each of many images, in their order. As of a `Model`."""
        copies = itertools.tee(images, len(self.members))
        streams = [m.stream(each, **options) for m, each in zip(self.members, copies, strict=True)]
        if options.get('embed'):
            raise self._missing('layers')
        for results in zip(*streams, strict=True):
            broken = next((result for result in results if result.error), None)
            yield broken or Result(results[0].name, _mean([r.probabilities for r in results]))

    # Without these, methods of a model would end in an AttributeError.

    @property
    def module(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Raises UserError: there is none."""
        raise self._missing('a module')

    @property
    def variables(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Raises UserError: there are none."""
        raise self._missing('variables')

    def logits(self, images: Images) -> NoReturn:
        """Raises UserError: the mean is that of probabilities."""
        raise self._missing('logits')

    def embed(self, images: Images, layer: str = 'pre_logits') -> NoReturn:
        """Raises UserError: there are no layers."""
        raise self._missing('layers')

    def features(self, images: Images) -> NoReturn:
        """Raises UserError: there are no layers."""
        raise self._missing('layers')

    def feature_shapes(self) -> NoReturn:
        """Raises UserError: there are no layers."""
        raise self._missing('layers')

    def explain(
        self, image: Image, method: str = 'gradcam', *, target: Any = None, **options: Any
    ) -> NoReturn:
        """Raises UserError: there are no layers."""
        raise self._missing('layers to explain')

    def reset_classifier(
        self, num_classes: int, classes: Sequence[str] = (), seed: int = 0
    ) -> NoReturn:
        """Raises UserError: there is no classifier."""
        raise self._missing('a classifier')

    def _missing(self, what: str) -> UserError:
        return UserError(
            f'{self.source or self.variant} is an ensemble, which has not {what}: load the run '
            'folder of a member, or take model.members.'
        )


def _mean(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean of the models' probabilities, float32, summed in the order of the models."""
    total = np.zeros(probabilities[0].shape)
    for each in probabilities:
        total += each
    return np.asarray(total / len(probabilities), np.float32)

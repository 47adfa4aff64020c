"""Splits: the kinds of their names, the one to evaluate on, and images held out for validation."""

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Iterable, Sequence

import numpy as np

from cls.data import order
from cls.errors import UserError

VALIDATION, TEST = 'validation', 'test'
# Names of each kind of split, in lower case, in TFDS and in folders.
TRAIN_NAMES = ('train', 'training')
VALIDATION_NAMES = ('val', 'valid', 'validation')
TEST_NAMES = ('test', 'testing')
NAMES = (*TRAIN_NAMES, *VALIDATION_NAMES, *TEST_NAMES)
_NUMBER = re.compile(r'([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)( by name)?')
BY_NAME = ' by name'


def kind(split: str) -> str:
    """Returns 'test' for a test split or a part of one, else 'validation'.

    Args:
      split: 'test', 'Test', 'test[:50%]', 'val', 'train[90%:]', 'train+test', ...
    """
    parts = [re.sub(r'\W.*', '', part.strip().lower(), flags=re.S) for part in split.split('+')]
    return TEST if all(part in TEST_NAMES for part in parts) else VALIDATION


def to_evaluate(name: str, names: Iterable[str], validation: str = '') -> str:
    """Returns the split of a data set to evaluate on by default.

    The validation split; the test split only if there is no validation split. With a validation
    set of its own the data set is tested: then it is the test split, or else a validation split
    that is not that set.

    Args:
      name: The name of the data set, for messages.
      names: The names of its splits.
      validation: config.eval.validation; '': none.

    Raises UserError if the data set has neither.
    """
    names = [split for split in names if split != validation]
    groups = (TEST_NAMES, VALIDATION_NAMES) if validation else (VALIDATION_NAMES, TEST_NAMES)
    for group in groups:
        if matches := [split for split in names if split.lower() in group]:
            return matches[0]
    raise UserError(
        f'{name} has no split to evaluate on, it has {", ".join(names)}: expected '
        'config.data.eval_split, as train[90%:], and config.data.train_split, as train[:90%].'
    )


@dataclasses.dataclass(frozen=True)
class Validation:
    """The meaning of config.eval.validation.

    Attributes:
      fraction: the part of each class that is held out of the training images; 0: none.
      by_name: whether the choice is by the names of the files alone, not by config.seed.
      split: the name of a split or folder; '': none.
    """

    fraction: float = 0.0
    by_name: bool = False
    split: str = ''

    @classmethod
    def read(cls, text: str) -> 'Validation':
        """Reads '0.1', '0.1 by name', or the name of a split. Raises UserError for other numbers.

        `by name` is the choice of runs from before config.eval.validation existed.
        """
        text = text.strip()
        match = _NUMBER.fullmatch(text)
        if not match:
            return cls(split=text)
        if not 0 < (fraction := float(match[1])) < 1:
            raise UserError(
                f'config.eval.validation is {text!r}: expected a fraction of the training images '
                "above 0 and below 1, as 0.1, the name of a split or folder, or '' for none."
            )
        return cls(fraction, bool(match[2]))

    def __bool__(self) -> bool:
        return bool(self.fraction or self.split)

    def held_out(self, labels: np.ndarray, seed: int, names: Sequence[str] = ()) -> np.ndarray:
        """Returns (N,) bool: whether each training image is held out for validation.

        The same part of each class: its size times the fraction, rounded, but at least one image,
        and at least one stays. With names the choice is by a hash of the seed and the name, so it
        hardly changes when images are added; without, it is by random numbers of the seed and the
        position.

        Args:
          labels: (N,) integers.
          seed: config.seed.
          names: N different names of images; (): they have none.

        Raises UserError for a class with one image, and `by_name` for images without names.
        """
        chosen = np.zeros(len(labels), bool)
        if self.by_name and not len(names):
            raise UserError(
                f"config.eval.validation is '{self.fraction}{BY_NAME}', and the training images "
                f"have no names: expected '{self.fraction}'."
            )
        drawn = None if len(names) else _drawn(len(labels), seed)
        examples, starts = order.sorted_by_class(labels)
        for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            of_class = examples[start:stop].astype(np.int64)
            count = self.count(len(of_class), f'class {int(labels[of_class[0]])}')
            if drawn is not None:
                ranked = of_class[np.argsort(drawn[of_class], kind='stable')]
            else:
                ranked = sorted(of_class.tolist(), key=lambda i: self.rank(names[int(i)], seed))
            chosen[ranked[:count]] = True
        return chosen

    def count(self, images: int, of: str) -> int:
        """Returns the number of images of a class that are held out.

        Args:
          images: The number of images of the class.
          of: The class, for the message.

        Raises UserError for a class with one image.
        """
        if images < 2:
            raise UserError(
                f'{of} has one image: expected two or more, one to train on and one to validate '
                'on (config.eval.validation).'
            )
        return min(max(math.floor(self.fraction * images + 0.5), 1), images - 1)

    def rank(self, name: str, seed: int) -> bytes:
        """Returns the key of an image among those of its class: the smallest are held out."""
        text = os.fsencode(name) if self.by_name else b'%d/%b' % (seed, os.fsencode(name))
        return hashlib.sha256(text).digest()

    def part(self, held_out: bool) -> str:
        """Returns the name of the held-out part of a training set, or of its rest."""
        held = f'{self.fraction:g} of each class held out'
        return held if held_out else f'all but {held}'


def _drawn(count: int, seed: int) -> np.ndarray:
    return np.random.Philox(key=order.key(seed, order.VALIDATION)).random_raw(count)


NO_VALIDATION = Validation()

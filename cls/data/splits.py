"""Names of splits: their kinds, and the split to evaluate on."""

import re
from collections.abc import Iterable

from cls.errors import UserError

VALIDATION, TEST = 'validation', 'test'
# Names of each kind of split, in lower case, in TFDS and in folders.
TRAIN_NAMES = ('train', 'training')
VALIDATION_NAMES = ('val', 'valid', 'validation')
TEST_NAMES = ('test', 'testing')
NAMES = (*TRAIN_NAMES, *VALIDATION_NAMES, *TEST_NAMES)


def kind(split: str) -> str:
    """Returns 'test' for a test split or a part of one, else 'validation'.

    Args:
      split: 'test', 'Test', 'test[:50%]', 'val', 'train[90%:]', 'train+test', ...
    """
    parts = [re.sub(r'\W.*', '', part.strip().lower(), flags=re.S) for part in split.split('+')]
    return TEST if all(part in TEST_NAMES for part in parts) else VALIDATION


def to_evaluate(name: str, names: Iterable[str]) -> str:
    """Returns the split of a data set to evaluate on by default.

    The validation split; the test split only if there is no validation split.

    Args:
      name: The name of the data set, for messages.
      names: The names of its splits.

    Raises UserError if the data set has neither.
    """
    names = list(names)
    for group in (VALIDATION_NAMES, TEST_NAMES):
        if matches := [split for split in names if split.lower() in group]:
            return matches[0]
    raise UserError(
        f'{name} has no split to evaluate on, it has {", ".join(names)}: expected '
        'config.data.eval_split, as train[90%:], and config.data.train_split, as train[:90%].'
    )

"""Names of splits: their kinds, and the split to evaluate on."""

import re
from collections.abc import Iterable

from cls.errors import UserError, nearest

VALIDATION, TEST = 'validation', 'test'
# Names of each kind of split, in lower case, in TFDS and in folders.
TRAIN_NAMES = ('train', 'training')
VALIDATION_NAMES = ('val', 'valid', 'validation')
TEST_NAMES = ('test', 'testing')
_GROUPS = TRAIN_NAMES, VALIDATION_NAMES, TEST_NAMES
NAMES = (*TRAIN_NAMES, *VALIDATION_NAMES, *TEST_NAMES)


def kind(split: str) -> str:
    """Returns 'test' for a test split or a part of one, else 'validation'.

    Args:
      split: 'test', 'Test', 'test[:50%]', 'val', 'train[90%:]', 'train+test', ...
    """
    parts = [re.sub(r'\W.*', '', part.strip().lower(), flags=re.S) for part in split.split('+')]
    return TEST if all(part in TEST_NAMES for part in parts) else VALIDATION


_PARTS = 'config.data.eval_split, as train[90%:], and config.data.train_split, as train[:90%]'


def to_evaluate(name: str, names: Iterable[str], remedy: str = _PARTS) -> str:
    """Returns the split of a data set to evaluate on by default.

    The validation split; the test split only if there is no validation split.

    Args:
      name: The name of the data set, for messages.
      names: The names of its splits.
      remedy: What to set if there is none, for the message.

    Raises UserError if the data set has neither.
    """
    names = list(names)
    for group in (VALIDATION_NAMES, TEST_NAMES):
        if matches := [split for split in names if split.lower() in group]:
            return matches[0]
    raise UserError(
        f'{name} has no split to evaluate on, it has {", ".join(names)}: expected {remedy}.'
    )


def asked(name: str, names: Iterable[str], wanted: str, field: str) -> str:
    """Returns the split of a data set that a field names, by any name of its kind of split.

    Args:
      name: The name of the data set, for messages.
      names: The names of its splits.
      wanted: The value of the field, as 'train', 'test' or 'Val'.
      field: The name of the field in config.data.

    Raises UserError if there is no such split, or several could be meant.
    """
    names = list(names)
    if wanted in names:
        return wanted
    groups = [(wanted.lower(),), *(g for g in _GROUPS if wanted.lower() in g)]
    for group in groups:
        if alike := [split for split in names if split.lower() in group]:
            if len(alike) > 1:
                raise UserError(
                    f'{name} has the splits {" and ".join(alike)}: say which one, as '
                    f'config.data.{field}={alike[0]}.'
                )
            return alike[0]
    raise UserError(
        f"config.data.{field} is '{wanted}', and {name} has no such split: expected one of "
        f'{", ".join(names) or "its splits (there are none)"}.{nearest(wanted, names)}'
    )


def chosen(name: str, names: Iterable[str], split: str, train_split: str, eval_split: str) -> str:
    """Returns the split of a data set to train or to evaluate on.

    Args:
      name: The name of the data set, for messages.
      names: The names of its splits.
      split: 'train' or 'eval'.
      train_split: The field of config.data.
      eval_split: The field of config.data.

    Raises UserError if there is no such split.
    """
    names = list(names)
    if split == 'train':
        return asked(name, names, train_split, 'train_split')
    if eval_split:
        return asked(name, names, eval_split, 'eval_split')
    return to_evaluate(name, names, 'config.data.eval_split, one of these or further files')


def training(name: str, names: Iterable[str], train_split: str) -> str | None:
    """Returns the split to train on, None if there is none; `train_split` 'train' is a default.

    Raises UserError for another one that does not exist.
    """
    try:
        return asked(name, names, train_split, 'train_split')
    except UserError:
        if train_split.lower() in TRAIN_NAMES:
            return None
        raise

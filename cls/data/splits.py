"""Names of splits: which are test splits, and how the figures of an evaluation are named.

Figures are 'test/top1', ... on a test split only and 'validation/top1', ... on any other: a
validation set, or a part of the training set. Those of an average of weights, or with recomputed
statistics, are 'validation_ema/top1' and so on, see `weights_name`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from cls.errors import UserError

VALIDATION, TEST = 'validation', 'test'
KINDS = (VALIDATION, TEST)
# Words for each part of a data set, in lower case: of TFDS's splits and of folders.
TRAIN_NAMES = ('train', 'training')
VALIDATION_NAMES = ('val', 'valid', 'validation')
TEST_NAMES = ('test', 'testing')
NAMES = (*TRAIN_NAMES, *VALIDATION_NAMES, *TEST_NAMES)


def kind(split: str) -> str:
    """Returns 'test' for a test split or a part of one, else 'validation'.

    Args:
      split: 'test', 'Test', 'test[:50%]', 'val', 'train[90%:]', 'train+test', ...
    """
    parts = [re.match(r'\w*', part.strip().lower())[0] for part in split.split('+')]
    return TEST if all(part in TEST_NAMES for part in parts) else VALIDATION


def to_evaluate(name: str, names: Iterable[str]) -> str:
    """Returns the split of a data set to evaluate on when none is asked for.

    It is its validation split; the test split only if there is none.

    Args:
      name: of the data set, for messages.
      names: of its splits.

    Raises UserError if it has neither.
    """
    names = list(names)
    for group in (VALIDATION_NAMES, TEST_NAMES):
        if found := [split for split in names if split.lower() in group]:
            return found[0]
    raise UserError(
        f'{name} has no split to evaluate on, it has {", ".join(names)}: expected '
        'config.data.eval_split, as train[90%:], and config.data.train_split, as train[:90%].'
    )


def weights_name(kind: str, *, ema: bool = False, precise: bool = False) -> str:
    """Returns what the names of figures begin with: 'test', 'validation_ema_precise', ...

    Args:
      kind: one of KINDS.
      ema: whether they are those of the average of weights.
      precise: whether they are with recomputed batch-norm statistics.
    """
    return kind + '_ema' * ema + '_precise' * precise


def figure(values: Mapping[str, Any], metric: str, *, ema: bool = False) -> Any:
    """Returns a figure of an evaluation, of whichever kind of split it was; None if none is there.

    Args:
      values: a line of metrics.jsonl, the content of result.json or evaluation.json.
      metric: 'top1', ...
      ema: whether to return that of the average of weights.
    """
    names = (f'{weights_name(kind, ema=ema)}/{metric}' for kind in KINDS)
    return next((values[name] for name in names if name in values), None)

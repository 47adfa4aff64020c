"""Splits of files that are named after them, as val/01.tar, and the split that is asked for."""

import re
from collections.abc import Iterable
from pathlib import Path

from cls.data import splits
from cls.data.scan import listed, once
from cls.data.spec import DataSpec
from cls.errors import UserError, nearest

_WORDS = {
    'train': ('train', 'training'),
    'validation': ('validation', 'valid', 'dev', 'val'),
    'test': ('test', 'testing', 'eval', 'evaluation'),
}
# The Hub's names of shards have the split in front, whatever it is.
_SHARD = re.compile(r'(?:.*/)?data/([\w.]+)-\d{5}-of-\d{5}[^/]*')
_GROUPS = splits.TRAIN_NAMES, splits.VALIDATION_NAMES, splits.TEST_NAMES
_APART = r'[-._ 0-9/]'


def by_split(root: Path, files: Iterable[Path]) -> dict[str, list[Path]]:
    """Returns the files of each split, in text order: 'train', 'validation', 'test' or others.

    A split is a word of a file's name or of its folders below `root`. If no file has one, all are
    of the split 'all'; otherwise files without one are left out, and named in the log.
    """
    every, result, unread = sorted(files), {}, []
    for file in every:
        name = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
        if split := split_of(name):
            result.setdefault(split, []).append(file)
        else:
            unread.append(file.name)
    if not result:
        return {'all': every} if every else {}
    if unread:
        once(f'{root}: not read, as their names have no split: {listed(unread, 5)}')
    return result


def split_of(name: str) -> str:
    """Returns the split in a file's relative name, '' if it has none."""
    if shard := _SHARD.fullmatch(name):
        return shard[1]
    folders, _, own = name.rpartition('/')
    for part in (own, folders):
        for split, words in _WORDS.items():
            if re.search(rf'(?:^|{_APART})(?:{"|".join(words)})(?:{_APART}|$)', part.lower()):
                return split
    return ''


def is_split(name: str) -> bool:
    """Whether a name is that of a split."""
    return name.lower() in splits.NAMES


def asked(name: str, names: Iterable[str], wanted: str, field: str) -> str:
    """Returns the split of a data set that a field names, by any name of its kind of split.

    Args:
      name: the name of the data set, for messages.
      names: the names of its splits.
      wanted: the value of the field, as 'train', 'test' or 'Val'.
      field: the name of the field in config.data.

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


def chosen(name: str, names: Iterable[str], split: str, data: DataSpec) -> str | None:
    """Returns the split of a data set to train or to evaluate on; None without one to train on.

    Examples without splits are those of the split 'all': they are evaluated on, and trained on if
    config.eval.validation holds a part of them out.

    Args:
      name: the name of the data set, for messages.
      names: the names of its splits.
      split: 'train' or 'eval'.
      data: the specification.

    Raises UserError if there is no such split.
    """
    names = list(names)
    if names == ['all'] and (data.held.fraction if split == 'train' else not data.eval_split):
        return 'all'
    if split == 'train':
        if data.train_split in splits.TRAIN_NAMES and not any(
            split.lower() in splits.TRAIN_NAMES for split in names
        ):
            return None
        return asked(name, names, data.train_split, 'train_split')
    if data.eval_split:
        return asked(name, names, data.eval_split, 'eval_split')
    try:
        return splits.to_evaluate(name, names, data.validation)
    except UserError:
        raise UserError(
            f'{name} has no split to evaluate on, it has {", ".join(names)}: expected '
            'config.data.eval_split, one of these or further files, or config.eval.validation=0.1, '
            'a part of the training images.'
        ) from None


def no_training(name: str, names: Iterable[str]) -> UserError:
    """Returns the error of a data set without a split to train on."""
    return UserError(
        f'{name} has no split to train on, but {listed(list(names), 5)}: expected train next to '
        'others, config.data.train_split, config.data.eval_split with further files, or '
        'config.eval.validation=0.1, a part that is held out.'
    )

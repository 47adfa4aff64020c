"""The splits of files that are named after them: train-00000-of-00005.parquet, val/01.tar."""

import re
from collections.abc import Iterable
from pathlib import Path

from cls.data import splits
from cls.data.scan import listed, once

_WORDS = {
    'train': ('train', 'training'),
    'validation': ('validation', 'valid', 'dev', 'val'),
    'test': ('test', 'testing', 'eval', 'evaluation'),
}
# The Hub's names of shards have the split in front, whatever it is.
_SHARD = re.compile(r'(?:.*/)?data/([\w.]+)-\d{5}-of-\d{5}[^/]*')
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

"""The image files of a folder, and the files left out, with reasons."""

import collections
import functools
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cls.data.decode import SUFFIXES
from cls.errors import UserError

Identity = tuple[int, int]  # of a file: device and inode
log = logging.getLogger(__name__)


class LeftOut:
    """The numbers of files and folders that are not read, by reason, to be logged once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._counts, self._suffixes = folder, Counter(), Counter()

    def count(self, reason: str) -> None:
        """Counts a file or folder."""
        self._counts[reason] += 1

    def other_format(self, name: str) -> None:
        """Counts a file without the suffix of an image."""
        self._suffixes[os.path.splitext(name)[1].lower() or 'without suffix'] += 1

    def add(self, other: 'LeftOut') -> None:
        """Adds the counts of another folder."""
        self._counts += other._counts
        self._suffixes += other._suffixes

    def __str__(self) -> str:
        parts = [f'{count} {reason}' for reason, count in sorted(self._counts.items())]
        if self._suffixes:
            order = sorted(self._suffixes.items(), key=lambda item: (-item[1], item[0]))
            suffixes = [f'{suffix} {count}' for suffix, count in order]
            parts.insert(0, f'{self._suffixes.total()} of other formats ({listed(suffixes, 8)})')
        return ', '.join(parts)

    def within(self) -> str:
        """Returns ' (left out: ...)', or '' if nothing is left out."""
        return f' (left out: {self})' if str(self) else ''

    def report(self) -> None:
        """Logs a line, unless nothing is left out."""
        if str(self):
            once(f'{self._folder}: left out {self}')


def class_folders(folder: Path, left_out: LeftOut | None = None) -> list[str]:
    """Returns the sorted names of the class folders in a folder.

    Args:
      folder: The folder of the class folders.
      left_out: Counts files outside of class folders, and links to parent folders.

    Raises UserError if there are no class folders.
    """
    left_out, around = left_out or LeftOut(folder), above(folder)
    names = []
    for entry in _entries(folder):
        if entry.name.startswith('.'):
            left_out.count('hidden')
        elif not _is_dir(entry):
            left_out.count('outside the class folders')
        elif _identity(entry) in around:
            left_out.count('links that lead back')
        else:
            names.append(entry.name)
    if not names:
        raise UserError(
            f'{folder} {contents(folder)}: expected one folder per class in it, as '
            f'{folder}/<class>/*.jpg.'
        )
    return sorted(names)


def image_files(
    folder: Path,
    left_out: LeftOut,
    around: set[Identity] | None = None,
    suffixes: tuple[str, ...] = SUFFIXES,
) -> list[str]:
    """Returns the sorted names of the images below a class folder, at any depth: 'inner/1.jpg'.

    Links are followed, but each folder is read once.

    Args:
      folder: The class folder.
      left_out: Counts the files that are not read.
      around: `above` of the folder that has this class folder, if that is known: finding it takes
        longer than reading a folder with a few images.
      suffixes: the suffixes of images, in lower case.

    Raises UserError for a folder that cannot be read.
    """
    files, pending = [], collections.deque([''])
    read = {_identity(folder)}
    read |= above(folder) if around is None or folder.is_symlink() else around
    while pending:
        inner = pending.popleft()
        for entry in _entries(folder / inner):
            if entry.name.startswith('.'):
                left_out.count('hidden')
            elif _is_dir(entry):
                if _identity(entry) in read:
                    left_out.count('links to folders that are read already')
                else:
                    read.add(_identity(entry))
                    pending.append(f'{inner}{entry.name}/')
            elif not entry.name.lower().endswith(suffixes):
                left_out.other_format(entry.name)
            elif not _is_file(entry):
                left_out.count('no files, or links to nothing')
            else:
                files.append(inner + entry.name)
    return sorted(files)


def above(folder: Path) -> set[Identity]:
    """Returns the identities of a folder and its parents, also of the folder behind a link."""
    real = folder.resolve()
    return {_identity(path) for path in (folder, *folder.absolute().parents, *real.parents)}


def _identity(entry: os.DirEntry | Path) -> Identity:
    status = entry.stat()
    return status.st_dev, status.st_ino


def _is_dir(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry]:
    """Returns the entries of a folder, sorted by name. Raises UserError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f'{folder} cannot be read ({error.strerror}): expected one that this user may read.'
        ) from error


def subfolders(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder that are not hidden."""
    return [e.name for e in _entries(folder) if not e.name.startswith('.') and _is_dir(e)]


def contents(folder: Path) -> str:
    """Returns a description of a folder without class folders, for messages."""
    files = [entry.name for entry in _entries(folder) if not entry.name.startswith('.')]
    images = sum(name.lower().endswith(SUFFIXES) for name in files)
    if images:
        return f'has {images} image{"s" * (images > 1)} and no class folders (unlabeled images)'
    return (
        f'has no class folders and no images, but {len(files)} other files' if files else 'is empty'
    )


def listed(names: Sequence[str], count: int) -> str:
    """Returns the first `count` names as text, and dots if there are more."""
    return ', '.join(names[:count]) + (', ...' if len(names) > count else '')


@functools.cache
def once(message: str) -> None:
    """Logs a warning once for each process, as a folder is opened several times."""
    log.warning(message)

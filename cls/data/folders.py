"""Folders of images, a folder for each class in them."""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cls.data import splits
from cls.data.decode import BrokenImage, decode, picture
from cls.data.sources import Crop, Source, class_indices
from cls.errors import UserError, nearest

# Of the formats that `decode` reads. It goes by a file's content: a name says only that the file is
# meant to be an image.
IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.jif', '.png', '.apng', '.webp', '.bmp', '.dib', '.gif'),
    *(
        '.tif',
        '.tiff',
        '.avif',
        '.jp2',
        '.j2k',
        '.jpx',
        '.ppm',
        '.pgm',
        '.pbm',
        '.pnm',
        '.ras',
        '.sr',
    ),
)
ORDERS = ('text', 'natural')
log = logging.getLogger(__name__)


class Folder(Source):
    """Image files, decoded to RGB one by one.

    Args:
      folder: Where they lie, for messages.
      files: Their paths.
      labels: (N,) int32.
      class_names: The classes' names, by label.
      exif: Whether the images are turned as their EXIF data say.
    """

    channels = 3
    _verifying = threading.Lock()  # one for all folders: it is held once, before the end

    def __init__(
        self,
        folder: Path,
        files: list[str],
        labels: np.ndarray,
        class_names: tuple[str, ...],
        exif: bool = False,
    ):
        self.num_classes, self.class_names = len(class_names), class_names
        self._folder, self._files, self._labels = folder, files, labels
        self._exif = exif
        self._verdict = ''

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        with self._naming():
            content = _content(self._files[index])
            image = decode(content, self.channels, exif=self._exif)
        return {'image': image, 'label': int(self._labels[index])}

    def read(self, index: int, crop: Crop) -> tuple[np.ndarray, int]:
        with self._naming():
            content = _content(self._files[index])
            image = crop(picture(content, self.channels, exif=self._exif))
        return image, int(self._labels[index])

    def labels(self) -> np.ndarray:
        return self._labels

    def identity(self) -> dict[str, Any]:
        """Returns `Source.identity` with a digest of the files' names and sizes and the labels."""
        digest = hashlib.sha256()
        for file, path, label in zip(self.files, self._files, self._labels, strict=True):
            digest.update(b'%b\0%d\0%d\n' % (os.fsencode(file), os.stat(path).st_size, label))
        return super().identity() | {'digest': digest.hexdigest()[:16]}

    @property
    def files(self) -> list[str]:
        """Returns the images' paths in the folder."""
        return [os.path.relpath(file, self._folder) for file in self._files]

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Says which images are broken."""
        try:
            yield
        except (OSError, BrokenImage) as error:
            raise UserError(self._verify()) from error

    def _verify(self) -> str:
        """Decodes every file and returns a line that counts and names the broken ones.

        Who has one broken file often has more: better to hear of them all at once.
        """
        with self._verifying:  # several threads may come upon broken files at once
            if not self._verdict:
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    intact = list(pool.map(_is_intact, self._files))
                broken = [file for file, good in zip(self._files, intact, strict=True) if not good]
                names = ', '.join(str(Path(file).relative_to(self._folder)) for file in broken[:5])
                self._verdict = (
                    f'{len(broken)} of the {len(self)} images in {self._folder} cannot be decoded: '
                    f'{names}{", ..." if len(broken) > 5 else ""}. Replace or remove them.'
                )
        return self._verdict


def _content(file: str) -> bytes:
    with open(file, 'rb', buffering=0) as opened:  # a buffer would be one copy more
        return opened.read()


def _is_intact(file: str) -> bool:
    try:
        decode(_content(file), Folder.channels)
    except (OSError, BrokenImage):
        return False
    return True


def has_training(root: Path, eval_fraction: float) -> bool:
    """Whether a folder has a part to train on, as `open_folder` takes it."""
    if not root.is_dir():  # which `open_folder` refuses
        return False
    layout = _layout(root)
    return layout.train is not None or (not layout.labelled and eval_fraction > 0)


def open_folder(
    root: Path,
    split: str,
    eval_fraction: float = 0.0,
    classes: tuple[str, ...] = (),
    exif: bool = True,
    *,
    eval_split: str = '',
    class_order: str = 'text',
) -> Folder:
    """Opens a part, 'train' or 'eval', of a folder of images. There are three layouts:

      DIR/train/<class>/ with DIR/val/<class>/ or DIR/test/<class>/, or both; to evaluate, with the
        classes known, the latter are enough;
      DIR/train/<class>/ alone;
      DIR/<class>/ alone.

    Images may be at any depth below their class. The names of the parts are those of
    `splits.NAMES`, in any case. 'eval' is the validation folder (val, valid, validation); without
    one, `eval_fraction` of each class, chosen by a hash of the file's name, that is held out of the
    training images; without either, the test folder; of DIR/<class>/, to evaluate only, the whole.
    A test folder with others is evaluated on only if `eval_split` says so.

    Args:
      root: DIR.
      split: 'train' or 'eval'.
      eval_fraction: Part of each class, in [0, 1).
      classes: The class names of the run that is evaluated, by label; (): the folders' names, in
        their order, of DIR/train if there is one.
      exif: Whether the images are turned as their EXIF data say.
      eval_split: The name of the folder to evaluate on; '': as above.
      class_order: 'text' (torchvision's) or 'natural' (timm's, 2 before 10).

    Raises UserError for what is not laid out so.
    """
    part, divided = _part(root, split, eval_fraction, eval_split)
    layout, left_out = _layout(root), LeftOut(part)
    names = class_folders(part, left_out)
    own = names
    if layout.train is not None and layout.train != part:
        own = class_folders(layout.train)
    own = ordered(own, class_order)
    if classes:
        labels_of = class_indices(names, classes, str(part))
    elif unknown := [name for name in names if name not in own]:
        raise UserError(
            f"{part} has the class '{unknown[0]}', which {layout.train} has not: expected "
            f'classes of {layout.train.name} only.{nearest(unknown[0], own)}'
        )
    else:
        _warn_of_order(own, class_order, root)
        labels_of = class_indices(names, own, str(part))
    if missing := [name for name in classes or own if name not in set(names)]:
        _once(
            f'{part} has no images of {len(missing)} of the {len(classes or own)} classes: '
            f'{_listed(missing, 5)}'
        )
    share = functools.partial(_share, split=split, eval_fraction=eval_fraction)
    share = share if divided else None
    # In text order whatever the order of the classes: that of the examples is not the labels'.
    source = of_classes(part, names, labels_of, tuple(classes or own), share, exif, left_out)
    source.split = _split_name(root, part)
    if divided:
        held = f'{eval_fraction:g} of each class held out'
        source.split = held if split == 'eval' else f'all but {held}'
    return source


def _split_name(root: Path, part: Path) -> str:
    name = os.path.basename(os.path.abspath(part))  # root may be '.'
    return name if part != root or name.lower() in splits.NAMES else 'all'


def ordered(names: Sequence[str], class_order: str) -> list[str]:
    """Returns names of classes in an order of ORDERS. Raises UserError for another."""
    if class_order not in ORDERS:
        raise UserError(
            f'config.data.class_order is {class_order!r}: expected one of {", ".join(ORDERS)}.'
            f'{nearest(class_order, ORDERS)}'
        )
    return sorted(names, key=_natural_key if class_order == 'natural' else None)


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """Numbers by their value and letters without their case, as timm's natural_key has it."""
    parts = re.split(r'(\d+)', name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _warn_of_order(names: Sequence[str], class_order: str, root: Path) -> None:
    """Warns where the two orders of the classes, and so the labels, differ."""
    text, natural = (ordered(names, order) for order in ORDERS)
    if text != natural:
        used, other = (text, natural) if class_order == 'text' else (natural, text)
        _once(
            f'the classes of {root} are labeled in {class_order} order, {_listed(used, 4)}; the '
            f'{"natural" if class_order == "text" else "text"} order differs, {_listed(other, 4)}: '
            'check which one weights and labels from elsewhere have (config.data.class_order).'
        )


def _listed(names: Sequence[str], count: int) -> str:
    return ', '.join(names[:count]) + (', ...' if len(names) > count else '')


@functools.cache
def _once(message: str) -> None:
    """Logs a warning, one time for each process: a folder is opened several times."""
    log.warning(message)


def of_classes(
    part: Path,
    names: Sequence[str],
    labels_of: np.ndarray,
    class_names: tuple[str, ...],
    share: Callable[[list[str], Path], list[str]] | None = None,
    exif: bool = False,
    left_out: 'LeftOut | None' = None,
) -> Folder:
    """Opens all images of some class folders, in their order, and says what is left out.

    Args:
      part: The folder of the class folders.
      names: Theirs.
      labels_of: (len(names),) int32, the label of each.
      class_names: All classes' names, by label.
      share: (a class's images, its folder) -> those to take; None: all.
      exif: Whether the images are turned as their EXIF data say.
      left_out: What `class_folders` left out already.

    Raises UserError if one is empty.
    """
    left_out = left_out or LeftOut(part)
    files, labels = [], []
    for name, label in zip(names, labels_of, strict=True):
        inner = LeftOut(part / name)
        images = image_files(part / name, inner)
        if not images:
            raise UserError(
                f'{part / name} has no images{inner.within()}: expected files that end in '
                f'{", ".join(IMAGE_SUFFIXES)}; remove the folder if the class is to go.'
            )
        left_out.add(inner)
        images = share(images, part / name) if share else images
        files += images
        labels += [label] * len(images)
    left_out.report()
    return Folder(part, files, np.array(labels, np.int32), class_names, exif)


# ------------------------------------------------------------------------------------------------
# Layouts
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The folders in DIR that have the name of a split."""

    train: Path | None
    labelled: dict[str, list[Path]]  # kind (`splits.KINDS`) -> folders of class folders
    others: list[Path]  # empty, or images alone


def _layout(root: Path) -> _Layout:
    """Returns the layout of a folder. Raises UserError where two may be meant by one name."""
    train, labelled, others = [], {}, []
    for name in sorted(_folders(root)):
        if name.lower() in splits.TRAIN_NAMES:
            train.append(root / name)
        elif name.lower() in splits.NAMES:
            if _folders(root / name):
                labelled.setdefault(splits.kind(name), []).append(root / name)
            else:
                others.append(root / name)
    if len(train) > 1:
        raise UserError(
            f'{train[0]} and {train[1]} are both there: expected one folder of training images.'
        )
    return _Layout(train[0] if train else None, labelled, others)


def _part(root: Path, split: str, eval_fraction: float, eval_split: str) -> tuple[Path, bool]:
    """Returns the folder of class folders that has a split, and whether it is to be divided."""
    if not 0 <= eval_fraction < 1:
        raise UserError(
            f'config.data.eval_fraction is {eval_fraction}: expected 0 or more, and <1.'
        )
    if not root.is_dir():
        raise UserError(
            f'{root} is no folder: expected images in it, as {root}/train/<class>/*.jpg.'
        )
    layout = _layout(root)
    validation = layout.labelled.get(splits.VALIDATION, [])
    if validation and eval_fraction:
        raise UserError(
            f'config.data.eval_fraction is {eval_fraction}, but {validation[0]} is there to '
            'evaluate on: expected 0, or no such folder.'
        )
    if split == 'eval' and (held := _evaluated(root, layout, eval_fraction, eval_split)):
        return held, False
    whole = layout.train
    if whole is None and layout.labelled:
        raise UserError(
            f'{root / "train"} is no folder: expected the training images as '
            f'{root / "train"}/<class>/*.jpg.'
        )
    if whole is None:
        whole = root
        _check_flat(root, layout)
        if split == 'train' and not eval_fraction:
            raise _nothing_held(root, layout)
    return whole, eval_fraction > 0


def _evaluated(root: Path, layout: _Layout, eval_fraction: float, eval_split: str) -> Path | None:
    """Returns the folder to evaluate on; None: what is held out, or the whole of DIR/<class>/."""
    if eval_split:
        return _asked_for(root, layout, eval_fraction, eval_split)
    found = layout.labelled.get(splits.VALIDATION, [])
    if not found and not eval_fraction:
        if layout.train is None and not layout.labelled:
            return None
        found = layout.labelled.get(splits.TEST, [])
        unusable = [path for path in layout.others if splits.kind(path.name) == splits.VALIDATION]
        if not found or unusable:
            raise _nothing_held(root, layout)
    return _one_of(found) if found else None


def _asked_for(root: Path, layout: _Layout, eval_fraction: float, eval_split: str) -> Path | None:
    """Returns the folder that config.data.eval_split names, by another of its kind's names too."""
    folders = _folders(root)
    alike = [name for name in folders if name.lower() == eval_split.lower()]
    if eval_split in alike:
        return root / eval_split
    if not alike:
        for group in (splits.TRAIN_NAMES, splits.VALIDATION_NAMES, splits.TEST_NAMES):
            if eval_split.lower() in group:
                alike = [name for name in folders if name.lower() in group]
    if alike:
        return _one_of([root / name for name in sorted(alike)])
    if eval_fraction and eval_split.lower() in splits.VALIDATION_NAMES:
        return None
    raise UserError(
        f"config.data.eval_split is '{eval_split}', and {root} has no such folder: expected '' or "
        f'one of {_listed(sorted(folders), 5) or "its folders, of which there are none"}.'
        f'{nearest(eval_split, folders)}'
    )


def _one_of(paths: list[Path]) -> Path:
    if len(paths) > 1:
        raise UserError(
            f'{paths[0]} and {paths[1]} may both be meant to evaluate on: say which one, as '
            f'config.data.eval_split={paths[0].name}.'
        )
    return paths[0]


def _check_flat(root: Path, layout: _Layout) -> None:
    """Checks DIR/<class>/ where some <class> has the name of a split.

    Raises UserError if nothing else is there; warns otherwise.
    """
    if layout.others and len(layout.others) == len(_folders(root)):
        raise UserError(
            f'{layout.others[0]} {_contents(layout.others[0])}: expected one folder per class in '
            f'it, as {layout.others[0]}/<class>/*.jpg.'
        )
    for path in layout.others:
        _once(f'{path} is taken for a class: it {_contents(path)}.')


def _nothing_held(root: Path, layout: _Layout) -> UserError:
    class_folders(layout.train or root)  # if it has none, that comes first
    unusable = '; '.join(f'{path.name} {_contents(path)}' for path in layout.others)
    test = layout.labelled.get(splits.TEST)
    asked = f', or config.data.eval_split={test[0].name}' if test else ''
    return UserError(
        f'{root} has no folder of images to evaluate on{unusable and f" ({unusable})"}: expected '
        f'one of {", ".join((*splits.VALIDATION_NAMES, "test"))} beside train, with the same '
        'classes in it, or config.data.eval_fraction, the part of each class that is kept for that '
        f'(0.1, say){asked}.'
    )


def _folders(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder that are not hidden."""
    return [e.name for e in _entries(folder) if not e.name.startswith('.') and _is_dir(e)]


def _contents(folder: Path) -> str:
    """Says what a folder without class folders has instead."""
    files = [entry.name for entry in _entries(folder) if not entry.name.startswith('.')]
    images = sum(name.lower().endswith(IMAGE_SUFFIXES) for name in files)
    if images:
        return f'has {images} image{"s" * (images > 1)} and no class folders (unlabeled images)'
    return (
        f'has no class folders and no images, but {len(files)} other files' if files else 'is empty'
    )


# ------------------------------------------------------------------------------------------------
# Files
# ------------------------------------------------------------------------------------------------


def _share(images: list[str], folder: Path, split: str, eval_fraction: float) -> list[str]:
    """Returns a split's part of a class's images: those with the least hashes are 'eval'.

    The hash is of the file's and its folder's name, so the choice is the same on every machine and
    hardly changes when images are added.
    """
    if len(images) < 2:
        raise UserError(
            f'{folder} has one image: expected two or more, one to train on and one to evaluate on '
            '(config.data.eval_fraction).'
        )

    def rank(file: str) -> bytes:
        return hashlib.sha256(
            os.fsencode(f'{folder.name}/{os.path.relpath(file, folder)}')
        ).digest()

    count = min(max(math.floor(eval_fraction * len(images) + 0.5), 1), len(images) - 1)
    held = set(sorted(images, key=rank)[:count])
    return [image for image in images if (image in held) == (split == 'eval')]


class LeftOut:
    """What of a folder is not read, counted by reason, to be printed once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._counts, self._suffixes = folder, Counter(), Counter()

    def count(self, reason: str) -> None:
        """Counts a file or folder."""
        self._counts[reason] += 1

    def other_format(self, name: str) -> None:
        """Counts a file whose name is not that of an image."""
        self._suffixes[os.path.splitext(name)[1].lower() or 'without suffix'] += 1

    def add(self, other: 'LeftOut') -> None:
        """Adds the counts of another folder."""
        self._counts += other._counts
        self._suffixes += other._suffixes

    def __str__(self) -> str:
        parts = [f'{count} {reason}' for reason, count in sorted(self._counts.items())]
        if self._suffixes:
            order = sorted(self._suffixes.items(), key=lambda item: (-item[1], item[0]))
            listed = [f'{suffix} {count}' for suffix, count in order]
            parts.insert(0, f'{self._suffixes.total()} of other formats ({_listed(listed, 8)})')
        return ', '.join(parts)

    def within(self) -> str:
        """Returns ' (left out: ...)', or '' if nothing is."""
        return f' (left out: {self})' if str(self) else ''

    def report(self) -> None:
        """Logs a line, unless nothing is left out."""
        if str(self):
            _once(f'{self._folder}: left out are {self}')


def class_folders(folder: Path, left_out: LeftOut | None = None) -> list[str]:
    """Returns the sorted names of the classes' folders; UserError if there is none.

    Args:
      folder: Theirs.
      left_out: Takes note of files outside of them, and of links that lead back.
    """
    left_out, above = left_out or LeftOut(folder), _above(folder) | {_identity(folder)}
    names = []
    for entry in _entries(folder):
        if entry.name.startswith('.'):
            left_out.count('hidden')
        elif not _is_dir(entry):
            left_out.count('outside the class folders')
        elif _identity(entry) in above:
            left_out.count('links that lead back')
        else:
            names.append(entry.name)
    if not names:
        raise UserError(
            f'{folder} {_contents(folder)}: expected one folder per class in it, as '
            f'{folder}/<class>/*.jpg.'
        )
    return sorted(names)


def image_files(folder: Path, left_out: LeftOut) -> list[str]:
    """Returns the sorted paths of the images below a class's folder, at any depth.

    Links are followed, to each folder once. Raises UserError for a folder that cannot be read.
    """
    found, pending = [], ['']
    read = _above(folder) | {_identity(folder)}
    while pending:
        inner = pending.pop(0)
        for entry in _entries(folder / inner):
            if entry.name.startswith('.'):
                left_out.count('hidden')
            elif _is_dir(entry):
                if _identity(entry) in read:
                    left_out.count('links to folders that are read already')
                else:
                    read.add(_identity(entry))
                    pending.append(f'{inner}{entry.name}/')
            elif not entry.name.lower().endswith(IMAGE_SUFFIXES):
                left_out.other_format(entry.name)
            elif not _is_file(entry):
                left_out.count('no files, or links to nothing')
            else:
                found.append(inner + entry.name)
    return [os.path.join(folder, name) for name in sorted(found)]


def _above(folder: Path) -> set[tuple[int, int]]:
    """Returns the identities of a folder's parents, and of the folder that it links to."""
    real = folder.resolve()
    return {_identity(parent) for parent in (*folder.absolute().parents, *real.parents)}


def _identity(entry: os.DirEntry | Path) -> tuple[int, int]:
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
    """Returns what is in a folder, sorted by name. Raises UserError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f'{folder} cannot be read ({error.strerror}): expected one that this user may read.'
        ) from error

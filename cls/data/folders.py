"""Folders of images, a folder for each class in them."""

import contextlib
import functools
import hashlib
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cls.data import splits
from cls.data.decode import BrokenImage, decode, picture
from cls.data.sources import Crop, Source, class_indices
from cls.errors import UserError, nearest

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')
EVAL_FOLDERS = ('test', 'val', 'validation')


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
    flat = not any((root / name).is_dir() for name in EVAL_FOLDERS)
    return (root / 'train').is_dir() or (flat and eval_fraction > 0)


def open_folder(
    root: Path,
    split: str,
    eval_fraction: float = 0.0,
    classes: tuple[str, ...] = (),
    exif: bool = True,
) -> Folder:
    """Opens a split, 'train' or 'eval', of a folder of images. There are three layouts:

      DIR/train/<class>/* and one of DIR/{test,val,validation}/<class>/*; to evaluate, with the
        classes known, the latter is enough;
      DIR/train/<class>/* alone;
      DIR/<class>/* alone.

    In the last two `eval_fraction` of each class, chosen by a hash of the file's name, is what is
    evaluated on. Without it DIR/<class>/* can be evaluated on only, as a whole.

    Args:
      root: DIR.
      split: 'train' or 'eval'.
      eval_fraction: Part of each class, in [0, 1).
      classes: The class names of the run that is evaluated, by label; (): the folders' names,
        sorted, of DIR/train if there is one.
      exif: Whether the images are turned as their EXIF data say.

    Raises UserError for what is not laid out so.
    """
    part, divided = _part(root, split, eval_fraction)
    names = class_folders(part)
    own = class_folders(root / 'train') if (root / 'train').is_dir() else names
    if classes:
        labels_of = class_indices(names, classes, str(part))
    elif unknown := [name for name in names if name not in own]:
        raise UserError(
            f"{part} has the class '{unknown[0]}', which {root / 'train'} has not: expected "
            f'classes of train only.{nearest(unknown[0], own)}'
        )
    else:
        labels_of = class_indices(names, own, str(part))
    if missing := [name for name in classes or own if name not in set(names)]:
        logging.warning(
            '%s has no images of %d of the %d classes: %s%s', part, len(missing),
            len(classes or own), ', '.join(missing[:5]), ', ...' if len(missing) > 5 else '',
        )  # fmt: skip
    share = functools.partial(_share, split=split, eval_fraction=eval_fraction)
    share = share if divided else None
    source = of_classes(part, names, labels_of, tuple(classes or own), share, exif)
    source.split = f'{eval_fraction:g} of each class held out' if divided else _split_name(part)
    return source


def _split_name(part: Path) -> str:
    name = part.absolute().name
    return name if name.lower() in splits.NAMES else 'all'


def of_classes(
    part: Path,
    names: Sequence[str],
    labels_of: np.ndarray,
    class_names: tuple[str, ...],
    share: Callable[[list[str], Path], list[str]] | None = None,
    exif: bool = False,
) -> Folder:
    """Opens all images of some class folders, in their order.

    Args:
      part: The folder of the class folders.
      names: Theirs.
      labels_of: (len(names),) int32, the label of each.
      class_names: All classes' names, by label.
      share: (a class's images, its folder) -> those to take; None: all.
      exif: Whether the images are turned as their EXIF data say.

    Raises UserError if one is empty.
    """
    files, labels = [], []
    for name, label in zip(names, labels_of, strict=True):
        images = _image_files(part / name)
        if not images:
            raise UserError(
                f'{part / name} has no images: expected files that end in '
                f'{", ".join(IMAGE_SUFFIXES)}; remove the folder if the class is to go.'
            )
        images = share(images, part / name) if share else images
        files += images
        labels += [label] * len(images)
    return Folder(part, files, np.array(labels, np.int32), class_names, exif)


def _part(root: Path, split: str, eval_fraction: float) -> tuple[Path, bool]:
    """Returns the folder of class folders that has a split, and whether it is to be divided."""
    train = root / 'train'
    held = [root / name for name in EVAL_FOLDERS if (root / name).is_dir()]
    if not 0 <= eval_fraction < 1:
        raise UserError(
            f'config.data.eval_fraction is {eval_fraction}: expected 0 or more, and <1.'
        )
    if not root.is_dir():
        raise UserError(f'{root} is no folder: expected images in it, as {train}/<class>/*.jpg.')
    if held and eval_fraction:
        raise UserError(
            f'config.data.eval_fraction is {eval_fraction}, but {held[0]} is there to evaluate on: '
            'expected 0, or no such folder.'
        )
    if held and split == 'eval':
        return held[0], False
    if held and not train.is_dir():
        raise UserError(
            f'{train} is no folder: expected the training images as {train}/<class>/*.jpg.'
        )
    flat = not train.is_dir()
    if not held and not eval_fraction and (split == 'eval') != flat:
        class_folders(root)  # if it has none, that comes first
        raise UserError(
            f'{root} has no folder of images to evaluate on: expected one of '
            f'{", ".join(EVAL_FOLDERS)} beside train, with the same classes in it, or '
            'config.data.eval_fraction, the part of each class that is kept for that (0.1, say).'
        )
    return root if flat else train, eval_fraction > 0


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
        return hashlib.sha256(f'{folder.name}/{Path(file).name}'.encode()).digest()

    count = min(max(math.floor(eval_fraction * len(images) + 0.5), 1), len(images) - 1)
    held = set(sorted(images, key=rank)[:count])
    return [image for image in images if (image in held) == (split == 'eval')]


def class_folders(folder: Path) -> list[str]:
    """Returns the sorted names of the classes' folders; UserError if there is none."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith('.'))
    if not names:
        raise UserError(
            f'{folder} is empty: expected one folder per class in it, as {folder}/<class>/*.jpg.'
        )
    return names


def _image_files(folder: Path) -> list[str]:
    """Returns the sorted paths of the images in a class's folder."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES))
    return [os.path.join(folder, name) for name in names if not name.startswith('.')]

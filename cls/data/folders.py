"""Folders of images with one folder for each class."""

import functools
import hashlib
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cls.data import broken, planes, splits
from cls.data.classes import class_indices
from cls.data.decode import SUFFIXES, BrokenImage, Rules, decode, picture
from cls.data.file_list import FileList, ImageList
from cls.data.layout import layout_of, part_of
from cls.data.scan import LeftOut, above, class_folders, image_files, listed, once
from cls.data.shared import SharedArray
from cls.data.sources import Crop, Source
from cls.errors import UserError, nearest

T = TypeVar('T')
ORDERS = ('text', 'natural')


class Folder(Source):
    """Image files, decoded one by one; to RGB, unless `channels` is set.

    Args:
      folder: The folder of the files, for messages.
      files: The images.
      labels: (N,) int32.
      class_names: The names of the classes, by label.
      exif: Whether the images are turned as their EXIF data say.
    """

    channels = 3
    _searching = threading.Lock()  # one for all folders: it is held once, before the run ends

    def __init__(
        self,
        folder: Path,
        files: ImageList,
        labels: np.ndarray,
        class_names: tuple[str, ...],
        exif: bool = False,
    ):
        self.num_classes, self.class_names = len(class_names), class_names
        self.files: ImageList = files
        self._folder, self._labels = folder, SharedArray(labels)
        self.rules = Rules(exif=exif)
        self._verdict, self._verified = '', broken.Verified(len(files))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        image = self._made(index, decode)
        return {'image': image, 'label': self._label(index)}

    def read(self, index: int, crop: Crop) -> tuple[np.ndarray, int]:
        image = self._made(index, lambda *file: crop(picture(*file)))
        return image, self._label(index)

    def labels(self) -> np.ndarray:
        return self._labels.values

    def _label(self, index: int) -> Any:
        return int(self._labels.values[index])

    def identity(self) -> dict[str, Any]:
        """Returns `Source.identity` and a digest of the labels and the files' names and sizes."""
        digest, folder = hashlib.sha256(), os.path.join(self._folder, '')
        for file, label in zip(self.files, self._labels.values.tolist(), strict=True):
            size = os.stat(folder + file).st_size
            digest.update(b'%b\0%d\0%d\n' % (os.fsencode(file), size, label))
        return super().identity() | {'digest': digest.hexdigest()[:16]}

    def _made(self, index: int, make: Callable[[bytes, int, Rules], T]) -> T:
        """Returns make(content of a file, channels, rules). Raises UserError with file names."""
        name, file = self.files[index], self.files.path(index)
        content = broken.insisting(lambda: self.files.content(index), file)
        try:
            return broken.made(
                file,
                self.rules,
                lambda rules: make(content, self.channels, rules),
                self._verified,
                index,
            )
        except BrokenImage as error:
            found = broken.BrokenFile(self._folder, name, error)
            # Signals reach only the process that started the workers, so it searches.
            raise found if multiprocessing.parent_process() else self.explained(found) from error

    def explained(self, error: UserError) -> UserError:
        """Returns an error of `read`; that of a broken file counts and names further ones."""
        if not isinstance(error, broken.BrokenFile):
            return error
        with self._searching:  # several threads may find broken files at the same time
            self._verdict = self._verdict or broken.verdict(
                error, self.files, self.channels, self.rules
            )
        return UserError(self._verdict)


def open_folder(
    root: Path,
    split: str,
    validation: splits.Validation = splits.NO_VALIDATION,
    classes: tuple[str, ...] = (),
    exif: bool = True,
    *,
    eval_split: str = '',
    class_order: str = 'text',
    arrays: bool = False,
    seed: int = 0,
) -> Folder:
    """Opens a split, 'train', 'validation' or 'eval', of a folder of images.

    There are three layouts:

      DIR/train/<class>/ with DIR/val/<class>/ or DIR/test/<class>/, or both; for evaluation with
        given classes, DIR/val/ or DIR/test/ is enough;
      only DIR/train/<class>/;
      only DIR/<class>/.

    Images may be at any depth below their class. The names of the splits are those of
    `splits.NAMES`, in upper or lower case. The 'eval' split is the first of these:

      - the folder that `eval_split` names: a test folder next to a validation folder is only
        evaluated on in this way;
      - the validation folder (val, valid, validation); with `validation`, the test folder;
      - the test folder; with `validation`, a validation folder other than that one;
      - with `validation`, its images: there is nothing to test on;
      - all of DIR/<class>/, for evaluation only.

    The 'validation' split is the folder that `validation` names, or a part of each class, held out
    of the training images by a hash of the seed and the file's name.

    Args:
      root: DIR.
      split: 'train', 'validation' or 'eval'.
      validation: The meaning of config.eval.validation.
      classes: The class names of the run that is evaluated, by label; (): the names of the class
        folders, those of DIR/train if it exists, in `class_order`.
      exif: Whether the images are turned as their EXIF data say.
      eval_split: The name of the folder to evaluate on; '': the first of the list above.
      class_order: 'text' (torchvision's) or 'natural' (timm's, 2 before 10).
      arrays: Whether files of NumPy, .npy, are images too.
      seed: The seed of the choice of images for validation.

    Raises UserError for other layouts.
    """
    part, divided = part_of(root, split, validation, eval_split)
    layout, left_out = layout_of(root), LeftOut(part)
    names = class_folders(part, left_out)
    own = names
    if layout.train is not None and layout.train != part:
        own = class_folders(layout.train)
    own = ordered(own, class_order)
    if classes:
        labels_of = class_indices(names, classes, str(part))
    elif layout.train and (unknown := sorted(set(names).difference(own))):
        raise UserError(
            f"{part} has the class '{unknown[0]}', which {layout.train} does not have: expected "
            f'only classes of {layout.train.name}.{nearest(unknown[0], own)}'
        )
    else:
        warn_of_order(own, class_order, root)
        labels_of = class_indices(names, own, str(part))
    present = set(names)
    if missing := [name for name in classes or own if name not in present]:
        once(
            f'{part} has no images of {len(missing)} of the {len(classes or own)} classes: '
            f'{listed(missing, 5)}'
        )
    share = functools.partial(_share, held=split != 'train', validation=validation, seed=seed)
    share = share if divided else None
    # Examples are in text order for both orders of the classes: only the labels differ.
    suffixes = SUFFIXES + planes.SUFFIXES if arrays else SUFFIXES
    source = of_classes(
        part, names, labels_of, tuple(classes or own), share, exif, left_out, suffixes
    )
    source.split = _split_name(root, part)
    if divided:
        source.split = validation.part(split != 'train')
    return source


def _split_name(root: Path, part: Path) -> str:
    name = os.path.basename(os.path.abspath(part))  # root may be '.'
    return name if part != root or name.lower() in splits.NAMES else 'all'


def ordered(names: Sequence[str], class_order: str) -> list[str]:
    """Returns class names in one of ORDERS. Raises UserError for another order."""
    if class_order not in ORDERS:
        raise UserError(
            f'config.data.class_order is {class_order!r}: expected one of {", ".join(ORDERS)}.'
            f'{nearest(class_order, ORDERS)}'
        )
    return sorted(names, key=_natural_key if class_order == 'natural' else None)


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """Returns a key that sorts as timm's natural_key: numbers by value, letters without case."""
    parts = re.split(r'(\d+)', name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def warn_of_order(names: Sequence[str], class_order: str, root: object) -> None:
    """Warns if the two orders of the classes, and so the labels, differ."""
    text, natural = (ordered(names, order) for order in ORDERS)
    if text != natural:
        used, other = (text, natural) if class_order == 'text' else (natural, text)
        once(
            f'the classes of {root} are labeled in {class_order} order, {listed(used, 4)}; the '
            f'{"natural" if class_order == "text" else "text"} order differs, {listed(other, 4)}: '
            'check which order your weights and labels use (config.data.class_order).'
        )


def of_classes(
    part: Path,
    names: Sequence[str],
    labels_of: np.ndarray,
    class_names: tuple[str, ...],
    share: Callable[[list[str], Path], list[str]] | None = None,
    exif: bool = False,
    left_out: 'LeftOut | None' = None,
    suffixes: tuple[str, ...] = SUFFIXES,
) -> Folder:
    """Opens all images of some class folders, in their order, and logs the files left out.

    Args:
      part: The folder of the class folders.
      names: The names of the class folders.
      labels_of: (len(names),) int32, the label of each class folder.
      class_names: The names of all classes, by label.
      share: (names of a class's images, its folder) -> the names to take; None: all.
      exif: Whether the images are turned as their EXIF data say.
      left_out: The counts of `class_folders`, to be continued.
      suffixes: The suffixes of images.

    Raises UserError if a class folder is empty.
    """
    left_out = left_out or LeftOut(part)
    around, counts = above(part), []

    def images_of(name: str) -> list[str]:
        inner = LeftOut(part / name)
        images = image_files(part / name, inner, around, suffixes)
        if not images:
            raise UserError(
                f'{part / name} has no images{inner.within()}: expected files that end in '
                f'{", ".join(SUFFIXES)}; remove the folder if the class is to go.'
            )
        left_out.add(inner)
        images = share(images, part / name) if share else images
        counts.append(len(images))
        return images

    files = FileList(part, ((f'{name}/', images_of(name)) for name in names))
    left_out.report()
    labels = np.repeat(np.asarray(labels_of, np.int32), counts)
    return Folder(part, files, labels, class_names, exif)


def _share(
    images: list[str], folder: Path, held: bool, validation: splits.Validation, seed: int
) -> list[str]:
    """Returns the names of a class that are held out, or with `held` False the other ones.

    Hashes are taken of the names of file and class folder, so the choice is the same on every
    machine and hardly changes when images are added.
    """
    count = validation.count(len(images), str(folder))
    ranked = sorted(images, key=lambda file: validation.rank(f'{folder.name}/{file}', seed))
    chosen = set(ranked[:count])
    return [image for image in images if (image in chosen) == held]

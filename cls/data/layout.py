"""Layouts of folders of images: the folders of the splits and the one to evaluate on."""

import dataclasses
from collections.abc import Set
from pathlib import Path

from cls.data import splits
from cls.data.scan import class_folders, contents, listed, once, subfolders
from cls.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Layout:
    """The folders in DIR that have the name of a split."""

    train: Path | None
    labeled: dict[str, list[Path]]  # kind, see `splits.kind` -> folders of class folders
    others: list[Path]  # without class folders: empty, or with images only


def layout_of(root: Path) -> Layout:
    """Returns the layout of a folder. Raises UserError if it has two folders of training images."""
    train, labeled, others = [], {}, []
    for name in sorted(subfolders(root)):
        if name.lower() in splits.TRAIN_NAMES:
            train.append(root / name)
        elif name.lower() in splits.NAMES:
            if subfolders(root / name):
                labeled.setdefault(splits.kind(name), []).append(root / name)
            else:
                others.append(root / name)
    if len(train) > 1:
        raise UserError(
            f'{train[0]} and {train[1]} both exist: expected one folder of training images.'
        )
    return Layout(train[0] if train else None, labeled, others)


def part_of(
    root: Path, split: str, validation: splits.Validation, eval_split: str
) -> tuple[Path, bool]:
    """Returns the folder with the class folders of a split, and whether it has to be divided.

    Args:
      root: DIR.
      split: 'train', 'validation' or 'eval'.
      validation: config.eval.validation.
      eval_split: config.data.eval_split.

    Raises UserError if there is no such folder.
    """
    if not root.is_dir():
        raise UserError(
            f'{root} is not a folder: expected images in it, as {root}/train/<class>/*.jpg.'
        )
    layout = layout_of(root)
    if layout.train is not None:
        _name_unread(root, {eval_split.lower(), validation.split.lower()})
    if split == 'validation' and validation.split:
        return _named(root, validation.split, 'config.eval.validation'), False
    if split == 'eval' and (tested := _evaluated(root, layout, validation, eval_split)):
        return tested, False
    folder = layout.train
    if folder is None and layout.labeled:
        raise UserError(
            f'{root / "train"} is not a folder: expected the training images as '
            f'{root / "train"}/<class>/*.jpg.'
        )
    if folder is None:
        folder = root
        _check_flat(root, layout)
        if split == 'train' and not validation.fraction:
            raise _nothing_held(root, layout)
    return folder, validation.fraction > 0


def _name_unread(root: Path, asked: Set[str]) -> None:
    """Warns of folders next to the training images with names of no split."""
    names = [name for name in sorted(subfolders(root)) if name.lower() not in splits.NAMES]
    unread = [name for name in names if name.lower() not in asked]
    if unread:
        once(
            f'{root}: not read, as these are not names of splits: {listed(unread, 5)} '
            '(config.data.eval_split says which folder is evaluated on)'
        )


def _evaluated(
    root: Path, layout: Layout, validation: splits.Validation, eval_split: str
) -> Path | None:
    """Returns the folder to evaluate on; None: the held-out images, or all of DIR/<class>/."""
    if eval_split:
        folder = _found(root, eval_split, 'config.data.eval_split')
        if folder is None and validation.fraction and eval_split.lower() in splits.VALIDATION_NAMES:
            return None
        return folder or _named(root, eval_split, 'config.data.eval_split')
    if validation:
        return _tested(root, layout, validation)
    folders = layout.labeled.get(splits.VALIDATION, [])
    if not folders:
        if layout.train is None and not layout.labeled:
            return None
        folders = layout.labeled.get(splits.TEST, [])
        unusable = [path for path in layout.others if splits.kind(path.name) == splits.VALIDATION]
        if not folders or unusable:
            raise _nothing_held(root, layout)
    return _one_of(folders)


def _tested(root: Path, layout: Layout, validation: splits.Validation) -> Path | None:
    """Returns the folder to test on, next to a validation set; None: the held-out images."""
    own = validation.split and _named(root, validation.split, 'config.eval.validation')
    kinds = (layout.labeled.get(kind, []) for kind in (splits.TEST, splits.VALIDATION))
    first, second = ([path for path in folders if path != own] for folders in kinds)
    if first and second:
        once(
            f'{root}: not read, as {validation.split or "a part of train"} is the validation set '
            f'and {first[0].name} is tested on: {listed([path.name for path in second], 5)} '
            '(config.eval.validation, config.data.eval_split)'
        )
    return _one_of(first or second) if first or second else own or None


def _named(root: Path, split: str, field: str) -> Path:
    """Returns the folder that a field names, see `_found`. Raises UserError if there is none."""
    if folder := _found(root, split, field):
        return folder
    folders = subfolders(root)
    raise UserError(
        f"{field} is '{split}', and {root} has no such folder: expected '' or "
        f'one of {listed(sorted(folders), 5) or "its folders (there are none)"}.'
        f'{nearest(split, folders)}'
    )


def _found(root: Path, split: str, field: str) -> Path | None:
    """Returns the folder that a field names, by any name of its kind of split; None: none."""
    folders = subfolders(root)
    alike = [name for name in folders if name.lower() == split.lower()]
    if split in alike:
        return root / split
    if not alike:
        for group in (splits.TRAIN_NAMES, splits.VALIDATION_NAMES, splits.TEST_NAMES):
            if split.lower() in group:
                alike = [name for name in folders if name.lower() in group]
    return _one_of([root / name for name in sorted(alike)], field) if alike else None


def _one_of(paths: list[Path], field: str = 'config.data.eval_split') -> Path:
    if len(paths) > 1:
        raise UserError(
            f'{paths[0]} and {paths[1]} may both be meant to evaluate on: say which one, as '
            f'{field}={paths[0].name}.'
        )
    return paths[0]


def _check_flat(root: Path, layout: Layout) -> None:
    """Checks the names of DIR/<class>/ for those of splits.

    Raises UserError if all folders have such names; warns of some.
    """
    if layout.others and len(layout.others) == len(subfolders(root)):
        raise UserError(
            f'{layout.others[0]} {contents(layout.others[0])}: expected one folder per class in '
            f'it, as {layout.others[0]}/<class>/*.jpg.'
        )
    for path in layout.others:
        once(f'{path} is taken for a class: it {contents(path)}.')


def _nothing_held(root: Path, layout: Layout) -> UserError:
    class_folders(layout.train or root)  # raises the more useful error if there are none
    unusable = '; '.join(f'{path.name} {contents(path)}' for path in layout.others)
    test = layout.labeled.get(splits.TEST)
    asked = f', or config.data.eval_split={test[0].name}' if test else ''
    return UserError(
        f'{root} has no folder of images to evaluate on{unusable and f" ({unusable})"}: expected '
        f'one of {", ".join((*splits.VALIDATION_NAMES, "test"))} next to train, with the same '
        'classes in it, or config.eval.validation, the part of each class that is kept for that '
        f'(0.1, say){asked}.'
    )


def has_training(root: Path, fraction: float) -> bool:
    """Returns whether `folders.open_folder` finds training images in a folder."""
    if not root.is_dir():  # `open_folder` refuses it
        return False
    layout = layout_of(root)
    return layout.train is not None or (not layout.labeled and fraction > 0)


def has_test(root: Path, validation: splits.Validation, eval_split: str) -> bool:
    """Returns whether a folder with a validation set has other images to test on."""
    tested = _evaluated(root, layout_of(root), validation, eval_split)
    own = validation.split and _named(root, validation.split, 'config.eval.validation')
    return tested is not None and tested != own

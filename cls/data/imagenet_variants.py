"""ImageNet's other test sets, as their authors publish them, with labels in ImageNet's classes.

    config.data.name = 'imagenet_a:DIR'

DIR is the extracted archive of the authors:

  imagenet_v2:DIR      Recht et al. 2019 (arXiv 1902.10811), one of three variants: folders 0 to 999
  imagenet_a:DIR       Hendrycks et al. 2019 (arXiv 1907.07174): folders of 200 WordNet ids
  imagenet_r:DIR       Hendrycks et al. 2020 (arXiv 2006.16241): folders of 200 WordNet ids
  imagenet_sketch:DIR  Wang et al. 2019 (arXiv 1905.13549): folders of all 1,000 WordNet ids
  imagenet_c:DIR       Hendrycks and Dietterich 2019 (arXiv 1903.12261): one severity of one
                       corruption, DIR/gaussian_noise/3: folders of all 1,000 WordNet ids
  imagenet_real:DIR    Beyer et al. 2020 (arXiv 2006.07159): real.json and, at any depth below DIR,
                       the validation images by their own names, ILSVRC2012_val_00000001.JPEG
  imagenet_real:FILE   the same from FILE, a real.json, and the prepared TFDS set imagenet2012

The same sets prepared by TFDS (tfds:imagenet_a, tfds:imagenet2012_corrupted/gaussian_noise_3, ...)
have the same labels and subsets. A benchmark must be complete, or its accuracy would not be
comparable; folder:DIR opens any part of one.
"""

import os
import re
from pathlib import Path

import numpy as np

from cls.data import folders, scan, tfds_sets
from cls.data.classes import BENCHMARKS, class_indices, subset, validation_labels, wnids
from cls.data.file_list import FileList
from cls.data.sources import Source
from cls.errors import UserError
from cls.storage import download, paths

_VALIDATION_NAME = re.compile(r'ILSVRC2012_val_(\d{8})\.JPEG')


def open_benchmark(
    name: str, where: str, split: str, data_dir: str = '', classes: tuple[str, ...] = ()
) -> Source:
    """Opens a test set.

    Args:
      name: One of BENCHMARKS.
      where: DIR, or the FILE of imagenet_real.
      split: 'eval'; a test set has no training split.
      data_dir: The folder of the prepared imagenet2012, for imagenet_real:FILE.
      classes: WordNet ids in the order of the labels; (): sorted.

    Raises UserError for a missing or unknown class and for another layout.
    """
    if split == 'train':
        raise UserError(f'{name} is a test set: expected `cls evaluate`, or another data set.')
    classes = classes or wnids()
    root = download.fetched(where)
    if name == 'imagenet_real':
        return _open_real(root, data_dir, classes)
    if not root.is_dir():
        raise UserError(f'{root} is not a folder: expected the extracted {name}.')
    benchmark = BENCHMARKS[name]
    places = benchmark.subset or range(len(wnids()))
    expected = {str(place) if benchmark.numbered else wnids()[place]: place for place in places}
    left_out = scan.LeftOut(root)
    found = scan.class_folders(root, left_out)
    for wrong, are in (
        ([folder for folder in expected if folder not in found], 'missing from'),
        ([folder for folder in found if folder not in expected], 'unexpected in'),
    ):
        if wrong:
            listed = ', '.join(wrong[:3]) + (', ...' if wrong[3:] else '')
            raise UserError(
                f'{len(wrong)} class folders are {are} {root} ({listed}): '
                f'expected the {len(expected)} class folders of {name}, from {next(iter(expected))}'
                f' to {list(expected)[-1]}; write folder:DIR for parts of it.'
            )
    ids = [wnids()[place] for place in expected.values()]
    labels = class_indices(ids, classes, name)
    source = folders.of_classes(root, list(expected), labels, classes, left_out=left_out)
    source.subset, source.split = subset(name, classes), benchmark.split
    return source


# ------------------------------------------------------------------------------------------------
# ImageNet-ReaL: sets of correct labels for the validation images
# ------------------------------------------------------------------------------------------------


def _open_real(root: Path, data_dir: str, classes: tuple[str, ...]) -> Source:
    order = class_indices(wnids(), classes, 'ImageNet-ReaL')
    right = _right_labels(root if root.is_file() else root / 'real.json')
    if root.is_file():
        return _real_of_prepared(right, data_dir, classes, order)
    numbers = {}
    for file in sorted(root.rglob('ILSVRC2012_val_*.JPEG')):
        number = _number(file.name)
        if number in numbers:
            raise UserError(f'{file} and {numbers[number]} have the same number: expected one.')
        numbers[number] = file
    _check_complete(sorted(numbers), len(right), str(root))
    kept = [number for number in sorted(numbers) if right[number - 1]]
    paths_of = (os.path.relpath(numbers[number], root) for number in kept)
    files = FileList(root, [('', paths_of)])
    names = [validation_labels()[number - 1] for number in kept]
    source = folders.Folder(root, files, class_indices(names, classes, 'ImageNet'), classes)
    source.split = BENCHMARKS['imagenet_real'].split
    source.label_sets = _label_sets(right, kept, order)
    return source


def _real_of_prepared(
    right: list[list[int]], data_dir: str, classes: tuple[str, ...], order: np.ndarray
) -> Source:
    builder = tfds_sets.prepared('imagenet2012', data_dir)
    # The records are in the order of a hash; each has its file name.
    numbers = [_number(name) for name in tfds_sets.texts(builder, 'validation', 'file_name')]
    _check_complete(sorted(numbers), len(right), str(builder.data_dir))
    rows = [row for row, number in enumerate(numbers) if right[number - 1]]
    source = tfds_sets.open_split(builder, 'imagenet2012', 'validation', classes, rows)
    source.label_sets = _label_sets(right, [numbers[row] for row in rows], order)
    return source


def _right_labels(file: Path) -> list[list[int]]:
    """Returns the lists of labels in real.json, one for each validation image in numeric order."""
    try:
        right = paths.parse_json(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f'{file} cannot be read ({error}): expected the real.json of '
            'https://github.com/google-research/reassessed-imagenet.'
        ) from error
    count = len(wnids())
    good = isinstance(right, list) and all(
        isinstance(labels, list) and all(type(x) is int and 0 <= x < count for x in labels)
        for labels in right
    )
    if not good:
        raise UserError(
            f'{file} is not a list of lists of classes 0 to {count - 1}: see real.json.'
        )
    return right


def _number(name: str) -> int:
    match = _VALIDATION_NAME.fullmatch(name)
    if not match:
        raise UserError(
            f'{name} is not the name of a validation image: see ILSVRC2012_img_val.tar.'
        )
    return int(match[1])


def _check_complete(numbers: list[int], count: int, where: str) -> None:
    if numbers != list(range(1, count + 1)):
        raise UserError(
            f'{where} has {len(numbers)} validation images and real.json labels for {count}: '
            f'expected images ILSVRC2012_val_00000001.JPEG to {count:08}, each once.'
        )


def _label_sets(
    right: list[list[int]], numbers: list[int], order: np.ndarray
) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(order[right[number - 1]].tolist()) for number in numbers)

"""ImageNet's other test sets, as their authors hand them out, with the maps to its classes.

    config.data.name = 'imagenet_a:DIR'

DIR is what the authors' archive extracts to:

  imagenet_v2:DIR      Recht et al. 2019 (arXiv 1902.10811), one of three variants: folders 0 to 999
  imagenet_a:DIR       Hendrycks et al. 2019 (arXiv 1907.07174): folders of 200 WordNet ids
  imagenet_r:DIR       Hendrycks et al. 2020 (arXiv 2006.16241): folders of 200 WordNet ids
  imagenet_sketch:DIR  Wang et al. 2019 (arXiv 1905.13549): folders of all 1,000 WordNet ids
  imagenet_c:DIR       Hendrycks and Dietterich 2019 (arXiv 1903.12261): one severity of one
                       corruption, DIR/gaussian_noise/3: folders of all 1,000 WordNet ids
  imagenet_real:DIR    Beyer et al. 2020 (arXiv 2006.07159): real.json and, wherever below DIR, the
                       validation images under their own names, ILSVRC2012_val_00000001.JPEG
  imagenet_real:FILE   the same of FILE, a real.json, and the prepared TFDS set imagenet2012

The same sets prepared by TFDS (tfds:imagenet_a, tfds:imagenet2012_corrupted/gaussian_noise_3, ...)
have the same labels and subsets. A benchmark must be complete, as its figure would mean nothing
else; folder:DIR takes any part of one.
"""

import dataclasses
import functools
import importlib.util
import re
from pathlib import Path

import numpy as np

from cls.data import folders, scan
from cls.data.sources import Source, class_indices
from cls.errors import UserError
from cls.storage import paths

# fmt: off
# Places of the 200 classes of ImageNet-A and of ImageNet-R among the sorted WordNet ids of
# ImageNet's 1,000: eval.py of github.com/hendrycks/natural-adv-examples and of .../imagenet-r.
_A = (
    6, 11, 13, 15, 17, 22, 23, 27, 30, 37, 39, 42, 47, 50, 57, 70, 71, 76, 79, 89, 90, 94, 96, 97,
    99, 105, 107, 108, 110, 113, 124, 125, 130, 132, 143, 144, 150, 151, 207, 234, 235, 254, 277,
    283, 287, 291, 295, 298, 301, 306, 307, 308, 309, 310, 311, 313, 314, 315, 317, 319, 323, 324,
    326, 327, 330, 334, 335, 336, 347, 361, 363, 372, 378, 386, 397, 400, 401, 402, 404, 407, 411,
    416, 417, 420, 425, 428, 430, 437, 438, 445, 456, 457, 461, 462, 470, 472, 483, 486, 488, 492,
    496, 514, 516, 528, 530, 539, 542, 543, 549, 552, 557, 561, 562, 569, 572, 573, 575, 579, 589,
    606, 607, 609, 614, 626, 627, 640, 641, 642, 643, 658, 668, 677, 682, 684, 687, 701, 704, 719,
    736, 746, 749, 752, 758, 763, 765, 768, 773, 774, 776, 779, 780, 786, 792, 797, 802, 803, 804,
    813, 815, 820, 823, 831, 833, 835, 839, 845, 847, 850, 859, 862, 870, 879, 880, 888, 890, 897,
    900, 907, 913, 924, 932, 933, 934, 937, 943, 945, 947, 951, 954, 956, 957, 959, 971, 972, 980,
    981, 984, 986, 987, 988,
)
_R = (
    1, 2, 4, 6, 8, 9, 11, 13, 22, 23, 26, 29, 31, 39, 47, 63, 71, 76, 79, 84, 90, 94, 96, 97, 99,
    100, 105, 107, 113, 122, 125, 130, 132, 144, 145, 147, 148, 150, 151, 155, 160, 161, 162, 163,
    171, 172, 178, 187, 195, 199, 203, 207, 208, 219, 231, 232, 234, 235, 242, 245, 247, 250, 251,
    254, 259, 260, 263, 265, 267, 269, 276, 277, 281, 288, 289, 291, 292, 293, 296, 299, 301, 308,
    309, 310, 311, 314, 315, 319, 323, 327, 330, 334, 335, 337, 338, 340, 341, 344, 347, 353, 355,
    361, 362, 365, 366, 367, 368, 372, 388, 390, 393, 397, 401, 407, 413, 414, 425, 428, 430, 435,
    437, 441, 447, 448, 457, 462, 463, 469, 470, 471, 472, 476, 483, 487, 515, 546, 555, 558, 570,
    579, 583, 587, 593, 594, 596, 609, 613, 617, 621, 629, 637, 657, 658, 701, 717, 724, 763, 768,
    774, 776, 779, 780, 787, 805, 812, 815, 820, 824, 833, 847, 852, 866, 875, 883, 889, 895, 907,
    928, 931, 932, 933, 934, 936, 937, 943, 945, 947, 948, 949, 951, 953, 954, 957, 963, 965, 967,
    980, 981, 983, 988,
)
# fmt: on
_VALIDATION_NAME = re.compile(r'ILSVRC2012_val_(\d{8})\.JPEG')


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """How a test set's folders tell the classes."""

    subset: tuple[int, ...] = ()  # places of its classes among ImageNet's; (): all 1,000
    numbered: bool = False  # folders have these places for names, not WordNet ids
    split: str = 'test'  # the split that its images are, under TFDS's name


BENCHMARKS = {
    'imagenet_v2': Benchmark(numbered=True),
    'imagenet_a': Benchmark(subset=_A),
    'imagenet_r': Benchmark(subset=_R),
    'imagenet_sketch': Benchmark(),
    'imagenet_c': Benchmark(split='validation'),  # both are made of the validation images
    'imagenet_real': Benchmark(split='validation'),
}


def _imagenet_file(name: str) -> tuple[str, ...]:
    """Returns the lines of a file that TFDS has beside its imagenet2012, without importing it."""
    root = importlib.util.find_spec('tensorflow_datasets').submodule_search_locations[0]
    return tuple((Path(root) / 'datasets' / 'imagenet2012' / name).read_text().split())


@functools.cache
def wnids() -> tuple[str, ...]:
    """Returns the WordNet ids of ImageNet's 1,000 classes, sorted: the order of all nets here."""
    return _imagenet_file('labels.txt')


@functools.cache
def validation_labels() -> tuple[str, ...]:
    """Returns the 50,000 WordNet ids of ImageNet's validation images, by the files' numbers."""
    return _imagenet_file('validation_labels.txt')


def subset(name: str, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Returns the places in `classes` of those that compete in a test set; () if all 1,000 do.

    Args:
      name: imagenet_a, ...; any other set has no subset.
      classes: WordNet ids.

    Raises UserError if `classes` lack some.
    """
    places = BENCHMARKS[name].subset if name in BENCHMARKS else ()
    names = [wnids()[place] for place in places]
    return tuple(class_indices(names, classes, name).tolist())


def open_benchmark(
    name: str, where: str, split: str, data_dir: str = '', classes: tuple[str, ...] = ()
) -> Source:
    """Opens a test set.

    Args:
      name: One of BENCHMARKS.
      where: DIR, or the FILE of imagenet_real.
      split: 'eval'; there is nothing to train on.
      data_dir: Where the prepared imagenet2012 lies, for imagenet_real:FILE.
      classes: WordNet ids in the order of the labels; (): sorted.

    Raises UserError if a class is missing or unknown, or the folder is not laid out as it should.
    """
    if split == 'train':
        raise UserError(f'{name} is a test set: expected --job evaluate, or another data set.')
    classes = classes or wnids()
    root = paths.fetched(where)
    if name == 'imagenet_real':
        return _open_real(root, data_dir, classes)
    if not root.is_dir():
        raise UserError(f'{root} is no folder: expected the extracted {name}.')
    benchmark = BENCHMARKS[name]
    places = benchmark.subset or range(len(wnids()))
    expected = {str(place) if benchmark.numbered else wnids()[place]: place for place in places}
    left_out = scan.LeftOut(root)
    found = scan.class_folders(root, left_out)
    for wrong, are in (
        ([folder for folder in expected if folder not in found], 'missing from'),
        ([folder for folder in found if folder not in expected], 'too many in'),
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
# ImageNet-ReaL: sets of right labels for the validation images
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
    files = [str(numbers[number]) for number in kept]
    names = [validation_labels()[number - 1] for number in kept]
    source = folders.Folder(root, files, class_indices(names, classes, 'ImageNet'), classes)
    source.split = BENCHMARKS['imagenet_real'].split
    source.label_sets = _label_sets(right, kept, order)
    return source


def _real_of_prepared(
    right: list[list[int]], data_dir: str, classes: tuple[str, ...], order: np.ndarray
) -> Source:
    from cls.data import tfds_sets  # which imports this module

    builder = tfds_sets.prepared('imagenet2012', data_dir)
    # The order of the records is that of a hash; their names are in them.
    numbers = [_number(name) for name in tfds_sets.texts(builder, 'validation', 'file_name')]
    _check_complete(sorted(numbers), len(right), str(builder.data_dir))
    rows = [row for row, number in enumerate(numbers) if right[number - 1]]
    source = tfds_sets.open_split(builder, 'imagenet2012', 'validation', classes, rows)
    source.label_sets = _label_sets(right, [numbers[row] for row in rows], order)
    return source


def _right_labels(file: Path) -> list[list[int]]:
    """Reads real.json: for each validation image in the order of their numbers, its labels."""
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
        raise UserError(f'{file} is no list of lists of classes 0 to {count - 1}: see real.json.')
    return right


def _number(name: str) -> int:
    match = _VALIDATION_NAME.fullmatch(name)
    if not match:
        raise UserError(f'{name} is no name of a validation image: see ILSVRC2012_img_val.tar.')
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

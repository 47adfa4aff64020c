"""Classes of data sets: their order, ImageNet's classes, and the subsets in its other test sets."""

import collections
import dataclasses
import functools
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls.errors import UserError, nearest

# fmt: off
# Indices of the 200 classes of ImageNet-A and of ImageNet-R in the sorted WordNet ids of ImageNet's
# 1,000 classes, from eval.py of github.com/hendrycks/natural-adv-examples and of .../imagenet-r.
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


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """The classes and folder names of a test set for ImageNet classifiers."""

    subset: tuple[int, ...] = ()  # indices of its classes in ImageNet's; (): all 1,000
    numbered: bool = False  # folders are named by these indices, not by WordNet ids
    split: str = 'test'  # the split of its images, by TFDS's name


BENCHMARKS = {
    'imagenet_v2': Benchmark(numbered=True),
    'imagenet_a': Benchmark(subset=_A),
    'imagenet_r': Benchmark(subset=_R),
    'imagenet_sketch': Benchmark(),
    'imagenet_c': Benchmark(split='validation'),  # this and the next have the validation images
    'imagenet_real': Benchmark(split='validation'),
}


def _imagenet_file(name: str) -> tuple[str, ...]:
    """Returns the lines of a file in TFDS's imagenet2012 package, without importing TFDS."""
    package: Any = importlib.util.find_spec('tensorflow_datasets')
    root = package.submodule_search_locations[0]
    return tuple((Path(root) / 'datasets' / 'imagenet2012' / name).read_text().split())


@functools.cache
def wnids() -> tuple[str, ...]:
    """Returns the WordNet ids of ImageNet's 1,000 classes, sorted: the order of all logits."""
    return _imagenet_file('labels.txt')


@functools.cache
def _lemmas() -> dict[str, str]:
    """Returns the English words of ImageNet's classes in WordNet 3.0, by WordNet id."""
    file = Path(__file__).with_name('imagenet_words.json')
    return json.loads(file.read_text(encoding='utf-8'))['words']


@functools.cache
def _words() -> dict[str, str]:
    """Returns a short and different name for each of ImageNet's classes, by WordNet id."""
    short = {wnid: lemmas.partition(',')[0] for wnid, lemmas in _lemmas().items()}
    counts = collections.Counter(short.values())
    names = {wnid: _lemmas()[wnid] if counts[name] > 1 else name for wnid, name in short.items()}
    return names | {'n02012849': 'crane (bird)', 'n03126707': 'crane (machine)'}


def words(label: str) -> str:
    """Returns the English name of a class: of a WordNet id of ImageNet, else the label itself."""
    return _words().get(label, label)


def has_words(label: str) -> bool:
    """Whether a label is the WordNet id of a class of ImageNet."""
    return label in _words()


def both(label: str) -> str:
    """Returns 'tench (n01440764)' for a WordNet id of ImageNet, else the label itself."""
    name = words(label)
    return label if name == label else f'{name} ({label})'


@functools.cache
def validation_labels() -> tuple[str, ...]:
    """Returns the 50,000 WordNet ids of ImageNet's validation images, in order of file number."""
    return _imagenet_file('validation_labels.txt')


def subset(name: str, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Returns the indices in `classes` of the classes of a test set; () for all 1,000.

    Args:
      name: The name of a data set; only those in BENCHMARKS, imagenet_a for example, have a subset.
      classes: WordNet ids.

    Raises UserError if `classes` lacks a class of the test set.
    """
    places = BENCHMARKS[name].subset if name in BENCHMARKS else ()
    names = [wnids()[place] for place in places]
    return tuple(class_indices(names, classes, name).tolist())


def class_indices(names: Sequence[str], classes: Sequence[str], where: str) -> np.ndarray:
    """Returns (n,) int32, the indices of a data set's class names in `classes`, those of a run.

    Raises UserError with the names of classes that the run does not have.
    """
    places = {name: index for index, name in enumerate(classes)}
    if unknown := [name for name in names if name not in places]:
        listed = ', '.join(f"'{name}'" for name in unknown[:5])
        raise UserError(
            f'{where} has {len(unknown)} of {len(names)} classes that the run does not know: '
            f'{listed}{", ..." if len(unknown) > 5 else ""}. Expected some of its {len(classes)} '
            f'classes, as {", ".join(classes[:3])}.{nearest(unknown[0], classes)}'
        )
    return np.array([places[name] for name in names], np.int32)

"""Fits the names in a file to a variant: those of its reference, or of a family's tables."""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from cls.errors import UserError
from cls.models import registry
from cls.models.registry import Variant
from cls.weights import names
from cls.weights.families import Names, families

COUNTER = '.num_batches_tracked'  # torch's counter of batches in a norm; Flax has none
CLASSES = -1  # the number of classes in a shape, if a network of any number of classes is meant

Shape = tuple[int, ...]
Tensors = Mapping[str, np.ndarray]
# (regular expression, replacement) pairs, applied in turn to torch-side names.
Renames = Iterable[tuple[str, str | Callable[[re.Match], str]]]


@dataclasses.dataclass(frozen=True)
class Naming:
    """The names of a variant's tensors in the files of a package.

    Attributes:
      family: the name of the package, 'cls' for a variant that no package has.
      table: a table of the family, None for the names of the variant's reference.
    """

    family: str
    table: Names | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of the module that differ from the variant's own."""
        return dict(self.table.fields) if self.table else {}

    def refusal(self, variant: str) -> str:
        """Returns a text on the package's network if it is not here, '' if it is the variant."""
        if self.table is None or not self.table.missing:
            return ''
        return f"{self.family}'s {variant} ({self.table.missing}), which is not here"


@dataclasses.dataclass(frozen=True)
class Named:
    """The tensors of a file under the names of a variant.

    Attributes:
      naming: the names in the file.
      tensors: name -> array.
      left_out: the names of tensors that are not part of the network, as they are in the file.
    """

    naming: Naming
    tensors: dict[str, np.ndarray]
    left_out: list[str]


def namings(variant: Variant) -> Iterator[Naming]:
    """Yields the names that files have for a variant, first those of its reference."""
    yield Naming('cls' if _is_derived(variant) else (variant.reference or 'cls').partition(':')[0])
    for family in families():
        for table in family.tables:
            if re.fullmatch(table.variants, variant.name):
                yield Naming(family.name, table)


def _is_derived(variant: Variant) -> bool:
    """Returns whether the package of the reference has another variant, the one of its name."""
    constructor = (variant.reference or '').rpartition(':')[2]
    if constructor in ('', variant.name) or constructor not in registry.names():
        return False
    return registry.variant(constructor).reference == variant.reference


def renamed(name: str, renames: Renames) -> str:
    """Returns a name after all renames, in turn."""
    return _renaming(renames)(name)


def _renaming(renames: Renames) -> Callable[[str], str]:
    """Returns `renamed` for some renames, with its results kept."""
    return _kept_renaming(tuple(map(tuple, renames)))


# The variants of a package mostly have the same renames, and a file is compared with many variants.
@functools.lru_cache(256)
def _kept_renaming(renames: tuple[tuple[str, str], ...]) -> Callable[[str], str]:
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in renames]

    @functools.lru_cache(2**14)
    def rename(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return rename


def named(state_dict: Tensors, variant: Variant, naming: Naming, wanted: Collection[str]) -> Named:
    """Returns the tensors of a file under the names of a variant.

    Prefixes that wrappers add to the names are removed (see `names.own`).

    Args:
      state_dict: name -> array.
      variant: the variant.
      naming: one of its `namings`.
      wanted: the names of the variant's tensors.

    Raises:
      UserError: see `names.own`; or the tensors do not have the forms that a table converts, or
        none of their names is of the table.
    """
    table = naming.table
    renames = variant.old_names if table is None else table.renames
    pairs = renames(variant) if callable(renames) else renames
    given = state_dict
    if table is not None and table.tensors is not None:
        state_dict = _converted(state_dict, variant, table)
    rename = _renaming(pairs)
    tensors, left_out = names.own(state_dict, wanted, rename)
    if table is not None and tuple(pairs) not in ((), variant.renames):
        # The file may be of the reference or of a third package, with other fields of the network.
        found = tensors.keys() & set(wanted)
        for others in ((), variant.renames):
            if found <= _found(given, others, found):
                raise UserError(f"none of the names is {naming.family}'s own")
    return Named(naming, tensors, left_out)


def _found(state_dict: Tensors, renames: Renames, wanted: Collection[str]) -> set[str]:
    """Returns the wanted names among those of a file after renames, under one prefix."""
    try:
        tensors, _ = names.own(state_dict, wanted, _renaming(renames))
    except UserError:
        return set()
    return tensors.keys() & set(wanted)


def _converted(state_dict: Tensors, variant: Variant, table: Names) -> dict[str, np.ndarray]:
    """Returns the tensors after the function of a table. Raises UserError for unlike tensors."""
    assert table.tensors is not None
    try:
        return table.tensors(dict(state_dict), variant)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f'other tensors than {table.variants} has ({error})') from None


def best(
    state_dict: Tensors,
    variant: Variant,
    wanted: Mapping[str, Shape],
    optional: Collection[str] = (),
) -> Named:
    """Returns the tensors of a file under the names that fit a variant best.

    Args:
      state_dict: name -> array.
      variant: the variant.
      wanted: the names and shapes of its tensors.
      optional: the names of tensors that may be missing.

    Raises:
      UserError: no names fit without a contradiction; the error is that of the reference's names.
        Or they are those of a network that is not here.
    """
    result, least, first = None, 0, None
    for naming in namings(variant):
        try:
            candidate = named(state_dict, variant, naming, wanted)
        except UserError as error:
            first = first or error
            continue
        differs = difference(candidate.tensors, wanted)
        wrong = differs.wrong - len(set(differs.missing) & set(optional))
        if result is None or wrong < least:
            result, least = candidate, wrong
        if not wrong:
            break
    if result is None:
        raise first or UserError('no names fit')
    if not least and (refusal := result.naming.refusal(variant.name)):
        raise UserError(f'the tensors are those of {refusal}')
    return result


# ---------------------------------------------------------------------------------- differences


@dataclasses.dataclass(frozen=True)
class Difference:
    """The differences of tensors from those of a network.

    Attributes:
      missing: names that only the network has.
      unused: names that only the file has.
      unlike: names with another shape.
      classes: the number of classes in the file, 0 if it has no classifier.
      channels: the channels of images that the file's first convolution takes.
    """

    missing: tuple[str, ...]
    unused: tuple[str, ...]
    unlike: tuple[str, ...]
    classes: int = 0
    channels: int = 3

    @property
    def wrong(self) -> int:
        """The number of tensors that differ."""
        return len(self.missing) + len(self.unused) + len(self.unlike)


def difference(tensors: Mapping[str, Any], wanted: Mapping[str, Shape]) -> Difference:
    """Returns the differences of tensors from those of a network.

    Counters of batches are not counted. Shapes may be those that `convert` accepts in place of each
    other. One convolution of images of three channels may have another number of channels.

    Args:
      tensors: name -> array, or anything with a shape.
      wanted: name -> shape, with CLASSES for the number of classes.
    """
    unlike, classes, first = [], set(), []
    for name, shape in wanted.items():
        if name not in tensors:
            continue
        actual = tuple(tensors[name].shape)
        if CLASSES in shape:
            place = shape.index(CLASSES)
            count = actual[place] if place < len(actual) else 0
            shape = tuple(count if size == CLASSES else size for size in shape)
            classes.add(count)
        if not is_like(actual, shape):
            (first if _is_first(actual, shape) else unlike).append(name)
    if len(first) > 1:
        unlike, first = [*unlike, *first], []
    return Difference(
        tuple(name for name in wanted if name not in tensors),
        tuple(name for name in tensors if name not in wanted and not is_counter(name, wanted)),
        tuple(unlike),
        max(classes, default=0),
        tensors[first[0]].shape[1] if first else 3,
    )


def is_counter(name: str, wanted: Collection[str]) -> bool:
    """Returns whether a name is that of a counter of batches, in a norm of the network."""
    return name.endswith(COUNTER) and f'{name.removesuffix(COUNTER)}.running_var' in wanted


def is_like(shape: Shape, wanted: Shape) -> bool:
    """Returns whether a tensor may fill one of another shape, see `convert`."""
    if shape == wanted or (len(wanted) == 2 and shape == (*wanted, 1, 1)):
        return True
    if len(shape) != 4 or len(wanted) != 4 or wanted[1] != 1:
        return False
    return wanted == (shape[0] * shape[1], 1, *shape[2:])  # the depthwise kernels of Keras 3


def _is_first(shape: Shape, wanted: Shape) -> bool:
    """Returns whether shapes are of a first convolution, of other images."""
    if len(shape) != 4 or len(wanted) != 4 or wanted[1] != 3:
        return False
    return (shape[0], *shape[2:]) == (wanted[0], *wanted[2:])

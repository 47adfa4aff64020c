"""Labels as they are written in tables and records: names, numbers, several in one cell.

`column` reads them, `classes_of` finds the classes, `numbered` returns their indices.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cls.data.folders import ordered, warn_of_order
from cls.data.scan import listed, once
from cls.data.shared import SharedArray
from cls.errors import UserError, nearest
from cls.storage import paths

Cell = str | int | tuple[str | int, ...] | None
SEPARATOR = '|'  # of several labels in a cell
_SPARSE = 100  # times the number of classes with examples: integers beyond it are no labels


@dataclasses.dataclass(frozen=True)
class Column:
    """The labels of N examples, as written.

    Attributes:
      codes: (N,) int32, indices into `values`.
      values: the different labels, in the order of their first examples; None for an empty cell.
      names: the names of the labels 0, 1, ... if the data set has them.
    """

    codes: np.ndarray
    values: tuple[Cell, ...]
    names: tuple[str, ...] = ()

    def used(self, rows: np.ndarray | None) -> list[int]:
        """Returns the codes that occur in some rows, in ascending order; None: all codes."""
        if rows is None:
            return list(range(len(self.values)))
        return np.flatnonzero(np.bincount(self.codes[rows], minlength=len(self.values))).tolist()

    def first(self, code: int) -> int:
        """Returns the first row with a code."""
        return int(np.argmax(self.codes == code))


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a data set: their names by label, () if they have none, and their number."""

    names: tuple[str, ...]
    count: int


class MultiHot:
    """The labels of N examples with any number of classes each.

    Args:
      codes: (N,) int32, indices into `classes_of`.
      classes_of: the classes of each different set of them.
      count: the number K of classes.
    """

    def __init__(self, codes: np.ndarray, classes_of: Sequence[Sequence[int]], count: int) -> None:
        ends = np.cumsum([0, *map(len, classes_of)]).astype(np.int64)
        flat = np.array([label for labels in classes_of for label in labels], np.int32)
        self._codes, self._flat, self._ends = map(SharedArray, (codes, flat, ends))
        self._count = count

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns (K,) uint8, 1 for each class of an example."""
        start, stop = self._ends.values[int(self._codes.values[index]) :][:2]
        result = np.zeros(self._count, np.uint8)
        result[self._flat.values[start:stop]] = 1
        return result

    def update(self, state: Any) -> None:
        """Adds all labels to a hash of hashlib."""
        for array in (self._codes, self._flat, self._ends):
            state.update(array.values)

    def counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Returns (K,) int64, the examples of each class among some rows; None: all."""
        codes = self._codes.values if rows is None else self._codes.values[rows]
        sizes = np.diff(self._ends.values)
        of_sets = np.repeat(np.bincount(codes, minlength=len(sizes)), sizes)
        counts = np.zeros(self._count, np.int64)
        np.add.at(counts, self._flat.values, of_sets)
        return counts

    def dense(self) -> np.ndarray:
        """Returns (N, K) uint8."""
        sets = len(self._ends) - 1
        rows = np.repeat(np.arange(sets), np.diff(self._ends.values))
        table = np.zeros((sets, self._count), np.uint8)
        table[rows, self._flat.values] = 1
        return table[self._codes.values]


def column(array: Any, names: Sequence[str] = (), several: bool = False) -> Column:
    """Returns the labels in a pyarrow array of text, binary, integers, or lists of these.

    Args:
      array: (N,) labels; an empty text and null are empty cells.
      names: the names of the labels 0, 1, ..., of a data set that stores numbers.
      several: whether a text has several labels, as 'cat|dog'.

    Raises ValueError for an array of other types or text that is not UTF-8.
    """
    import pyarrow as pa

    array = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.cast(kind.value_type)
        kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _column_of_lists(array, tuple(names))
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif pa.types.is_floating(kind):  # pandas makes integers with an empty cell floats
        array = array.cast(pa.int64())
    elif not (pa.types.is_integer(kind) or _is_text(kind)):
        raise ValueError(f'labels of type {kind}')
    encoded = array.dictionary_encode('encode').combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], array.type)
    codes = np.asarray(encoded.indices, np.int32)
    values = tuple(_cell(value, several) for value in encoded.dictionary.to_pylist())
    return Column(codes, values, tuple(names))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    tests = pa.types.is_string, pa.types.is_large_string, pa.types.is_binary
    return any(test(kind) for test in (*tests, pa.types.is_large_binary, pa.types.is_string_view))


def _cell(value: Any, several: bool) -> Cell:
    value = value.decode() if isinstance(value, bytes) else value
    if several and isinstance(value, str):
        return tuple(value.split(SEPARATOR)) if value else ()
    return None if value == '' else value


def _column_of_lists(array: Any, names: tuple[str, ...]) -> Column:
    places: dict[Cell, int] = {}
    cells = (tuple(labels or ()) for labels in array.to_pylist())
    codes = np.fromiter((places.setdefault(cell, len(places)) for cell in cells), np.int32)
    return Column(codes, tuple(places), names)


def parts(cell: Cell) -> tuple[str | int, ...]:
    """Returns the labels in a cell."""
    return cell if isinstance(cell, tuple) else () if cell is None else (cell,)


def classes_of(
    labels: Column,
    rows: np.ndarray | None,
    given: Sequence[str],
    class_order: str,
    where: str,
) -> Classes:
    """Returns the classes of a data set.

    Args:
      labels: the labels of all examples.
      rows: the training examples; None: all.
      given: the names of the classes by label, of a run or a file; (): those of the data set.
      class_order: the order of names, see `folders.ordered`; numbers have their own.
      where: the name of the data set, for messages.

    Raises UserError for integers that cannot be labels.
    """
    if labels.names or given:
        names = tuple(given or labels.names)
        return Classes(names, len(names))
    values = {part for code in labels.used(rows) for part in parts(labels.values[code])}
    if _are_numbers(values):
        return _numbered_classes({int(value) for value in values}, where)
    names = ordered([str(value) for value in values], class_order)
    warn_of_order(names, class_order, where)
    return Classes(tuple(names), len(names))


def _numbered_classes(values: set[int], where: str) -> Classes:
    count = max(values, default=0) + 1
    if min(values, default=0) < 0:
        raise UserError(f'{where} has the label {min(values)}: expected 0 or more, or names.')
    if count > _SPARSE * max(len(values), 1):
        raise UserError(
            f'{where} has {len(values)} different labels, integers up to {count - 1}: expected '
            'integers from 0 on, or names; a file config.data.classes with one of these on each '
            'line takes them for names.'
        )
    missing = [str(number) for number in range(count) if number not in values]
    once(
        f'{where}: the labels are the integers 0 to {count - 1}'
        + (f'; without examples: {listed(missing, 5)}' if missing else '')
    )
    return Classes((), count)


def _are_numbers(values: set[Any]) -> bool:
    """Whether all labels are integers, also as text without leading zeros."""
    return all(isinstance(value, int) or _is_integer(value) for value in values)


def _is_integer(value: str) -> bool:
    return value.lstrip('-').isdecimal() and value.isascii() and str(int(value)) == value


def numbered(
    labels: Column,
    rows: np.ndarray | None,
    classes: Classes,
    several: bool,
    name: Callable[[int], str],
) -> np.ndarray | MultiHot:
    """Returns the labels of some examples as indices of classes.

    Args:
      labels: the labels of all examples.
      rows: (n,) the examples; None: all.
      classes: the classes of the run.
      several: whether an example may have any number of classes.
      name: row -> its place in the data set, for messages.

    Returns:
      (n,) int32, or a MultiHot if `several`.

    Raises UserError, with the place, for an empty cell, several labels where one is expected, and
    labels that are no class.
    """
    used = labels.used(rows)
    indices = _indices(labels, used, classes)
    of_code: list[list[int]] = [[] for _ in labels.values]
    for code in used:
        cell = labels.values[code]
        of_code[code] = [indices.get(part, -1) for part in parts(cell)]
        if problem := _problem(cell, of_code[code], classes, several):
            raise UserError(f'{name(_first(labels, rows, code))} {problem}')
    codes = labels.codes if rows is None else labels.codes[rows]
    if several:
        return MultiHot(codes, of_code, classes.count)
    return np.array([places[0] if places else -1 for places in of_code], np.int32)[codes]


def _first(labels: Column, rows: np.ndarray | None, code: int) -> int:
    if rows is None:
        return labels.first(code)
    return int(rows[np.argmax(labels.codes[rows] == code)])


def _indices(labels: Column, used: Sequence[int], classes: Classes) -> dict[Any, int]:
    """Returns the index of the class of each label; labels that are no class are left out."""
    every = {part for code in used for part in parts(labels.values[code])}
    places = {name: index for index, name in enumerate(classes.names)}
    if labels.names:
        named = enumerate(labels.names)
        return {number: places[name] for number, name in named if name in places}
    # Names may be numbers, so a list of names that has all labels comes first.
    if places and not (_are_numbers(every) and {str(part) for part in every} - places.keys()):
        return {part: places[str(part)] for part in every if str(part) in places}
    if not _are_numbers(every):
        return {}
    return {part: int(part) for part in every if 0 <= int(part) < classes.count}


def _problem(cell: Cell, places: list[int], classes: Classes, several: bool) -> str:
    """Returns the mistake in a cell, with the remedy; '' if there is none."""
    found = parts(cell)
    if not several and len(found) > 1:
        return f'has {len(found)} labels: expected one, or config.data.multi_label=True.'
    if not several and not found:
        return 'has no label: expected one, or leave the image out.'
    for part, place in zip(found, places, strict=True):
        text = str(part)
        if not several and isinstance(part, str) and SEPARATOR in part:
            return (
                f'has several labels, {text!r}: expected one, or --config.data.multi_label=True '
                'with a loss for these.'
            )
        if text != text.strip():
            return f'has the label {text!r}: expected one without spaces at its ends.'
        if place < 0 and classes.names:
            return (
                f'has the label {text!r}, which is none of the {len(classes.names)} classes, as '
                f'{listed(classes.names, 3)}.{nearest(text, classes.names)}'
            )
        if place < 0:
            return f'has the label {text!r}: expected an integer from 0 to {classes.count - 1}.'
    if len(set(places)) != len(places):
        return f'has a label twice, {cell!r}: expected each once.'
    return ''


def class_file(name: str) -> tuple[str, ...]:
    """Returns the names in a file of classes: a JSON list, or one on each line.

    Raises UserError if it cannot be read, is empty, or has a name twice.
    """
    file = paths.path(name)
    try:
        text = file.read_text(encoding='utf-8-sig')
        names = paths.parse_json(text) if file.suffix == '.json' else text.splitlines()
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError('not a list of names')
    except (OSError, ValueError) as error:
        why = getattr(error, 'strerror', None) or error
        raise UserError(
            f'config.data.classes: {file} cannot be read ({why}): expected the names of the '
            'classes by label, one on each line or a JSON list.'
        ) from error
    if not names or '' in names or len(set(names)) < len(names):
        counts = collections.Counter(names)
        twice = next((name for name in names if counts[name] > 1), '')
        raise UserError(
            f'config.data.classes: {file} has '
            + ('no names' if not names else f'the name {twice!r} twice' if twice else 'empty lines')
            + ': expected a different name of a class on each line.'
        )
    return tuple(names)

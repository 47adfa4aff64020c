"""Columns of CSV files: millions of rows in seconds, and the line of each mistake.

pyarrow reads files in the usual quoting (RFC 4180), several times as fast as Python's csv module.
It accepts unusual quoting without a word, so that other files are left to the csv module, which
names the line of a mistake.
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls.errors import UserError

DELIMITERS = {'.tsv': '\t'}  # by suffix; of other files a comma
_QUOTE, _BLOCK, _ROWS = 34, 2**24, 2**16
_EXPECTED = 'expected a table as CSV in UTF-8, with a header'


def header(file: Path) -> list[str]:
    """Returns the names of the columns. Raises UserError for a file without a header."""
    _check_encoding(file)
    _, row = next(_numbered(file), (0, []))
    if not row:
        raise UserError(f'{file} is empty: {_EXPECTED}.')
    if repeated := [name for i, name in enumerate(row) if name in row[:i]]:
        raise UserError(f'{file}: two columns have the name {repeated[0]!r}: expected different.')
    return row


def read(file: Path, columns: Sequence[str]) -> Any:
    """Returns some columns of a CSV file, a pyarrow.Table of text.

    Blank lines are skipped, and a byte order mark.

    Args:
      file: The file, with a header; .tsv is delimited by tabs.
      columns: The names of the columns to read, as in the header.

    Raises UserError, with the line, for quotes that do not end, another number of cells than in the
    header, and text that is not UTF-8.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    if not is_usual(file):
        return _read_slowly(file, columns)
    try:
        return arrow_csv.read_csv(
            file,
            arrow_csv.ReadOptions(block_size=_BLOCK),
            arrow_csv.ParseOptions(delimiter=_delimiter(file), newlines_in_values=True),
            arrow_csv.ConvertOptions(
                column_types={name: pa.string() for name in columns},
                include_columns=list(columns),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return _read_slowly(file, columns)  # which names the line


def is_usual(file: Path) -> bool:
    """Whether quotes are only at the two ends of cells, or doubled inside of these."""
    before, inside = ord('\n'), 0
    after = np.frombuffer(b'"\r\n' + _delimiter(file).encode(), np.uint8)
    with file.open('rb') as opened:
        opened.seek(3 if opened.read(3) == b'\xef\xbb\xbf' else 0)
        while block := opened.read(_BLOCK):
            while block.endswith(b'"') and (more := opened.read(1)):
                block += more
            content = np.frombuffer(bytes([before]) + block, np.uint8)
            quotes = np.flatnonzero(content[1:] == _QUOTE) + 1
            opening, closing = quotes[inside::2], quotes[1 - inside :: 2]
            following = closing + 1
            following = following[following < len(content)]
            if not (
                np.isin(content[opening - 1], after).all()
                and np.isin(content[following], after).all()
            ):
                return False
            before, inside = int(content[-1]), (inside + len(quotes)) % 2
    return not inside


def line_of(file: Path, row: int) -> int:
    """Returns the number of the line on which a row ends, counted from 1; row 0 is the first.

    The header and blank lines are no rows.
    """
    return next(itertools.islice(_numbered(file), row + 1, None), (0, []))[0]


def _read_slowly(file: Path, columns: Sequence[str]) -> Any:
    """Returns `read` by Python's csv module."""
    import pyarrow as pa

    rows = _numbered(file)
    _, names = next(rows)
    places, parts = [names.index(name) for name in columns], []
    while some := list(itertools.islice(rows, _ROWS)):
        for line, row in some:
            if len(row) != len(names):
                raise UserError(
                    f'{file}: line {line} has {len(row)} cells: expected {len(names)}, as the '
                    f'header: {", ".join(names[:8])}.'
                )
        cells = [[row[place] for _, row in some] for place in places]
        parts.append(
            pa.table(
                dict(zip(columns, [pa.array(cell, pa.string()) for cell in cells], strict=True))
            )
        )
    empty = pa.schema([(name, pa.string()) for name in columns])
    return pa.concat_tables(parts) if parts else empty.empty_table()


def _numbered(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the last line, cells) of each row that is not blank, the header first."""
    with file.open(encoding='utf-8-sig', newline='') as lines:
        reader = csv.reader(lines, delimiter=_delimiter(file), strict=True)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except UnicodeDecodeError as error:
            line = _line_of_other_bytes(file)
            raise UserError(f'{file}: line {line} is not UTF-8: {_EXPECTED}.') from error
        except csv.Error as error:
            raise UserError(
                f'{file}: line {max(reader.line_num, 1)} cannot be read ({error}): {_EXPECTED}, '
                'and every quote closed.'
            ) from error


def _line_of_other_bytes(file: Path) -> int:
    with file.open('rb') as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def _delimiter(file: Path) -> str:
    return DELIMITERS.get(file.suffix.lower(), ',')


def _check_encoding(file: Path) -> None:
    try:
        with file.open('rb') as opened:
            start = opened.read(4)
    except OSError as error:
        raise UserError(f'{file} cannot be read ({error.strerror}): {_EXPECTED}.') from error
    if start[:2] in (b'\xff\xfe', b'\xfe\xff'):
        raise UserError(f"{file} is UTF-16: {_EXPECTED} (in Excel: save as 'CSV UTF-8').")
    if start[:2] == b'\x1f\x8b':
        raise UserError(f'{file} is compressed: {_EXPECTED}.')

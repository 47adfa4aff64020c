"""The images that a command names: files, folders, globs, CSV lists, and standard input."""

import csv
import dataclasses
import glob
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cls.data.decode import SUFFIXES
from cls.data.scan import LeftOut, image_files
from cls.data.table_files import IMAGES, LABELS
from cls.errors import UserError
from cls.inference.preprocess import Image
from cls.storage import paths

LISTS = ('.csv', '.tsv')
STDIN = '-'


@dataclasses.dataclass(frozen=True)
class Input:
    """An image that a command names.

    Attributes:
      name: its path, or '-' for an image from standard input.
      image: its path or its content.
      label: the name of its class; '' if unknown.
    """

    name: str
    image: Image
    label: str = ''


def expand(arguments: Sequence[str], classes: Sequence[str] = ()) -> list[Input]:
    """Returns the images of some arguments, in their order.

    An argument is one of these:
      a folder: its images at any depth, sorted. An image has a label if a folder in its path, below
        the argument, has the name of a class, the innermost one if there are several;
      a pattern with *, ? or [...]: the files that match, sorted; ** matches folders at any depth;
      a .csv or .tsv file: its column 'image', 'path', 'file', 'filename' or 'file_name', or without
        a header its first column; a column 'label', 'labels', 'class' or 'target' has labels. Paths
        are relative to the working directory or, if there is no such file, to the list;
      '-': standard input, either an image or one path on each line;
      any other path: an image, also if there is no such file.

    Args:
      arguments: the arguments.
      classes: the labels of the model's outputs.

    Raises UserError for an empty argument, a folder or pattern without images, a list that cannot
    be read, or a second '-'.
    """
    known = frozenset(classes)
    if arguments.count(STDIN) > 1:
        raise UserError("'-', standard input, is there twice: expected it once.")
    return [each for argument in arguments for each in _expanded(argument, known)]


def places(classes: Sequence[str], outputs: int) -> dict[str, int]:
    """Returns the output of each label: the name of a class, or its index, as in some lists.

    Args:
      classes: the labels of the outputs; () if they are unknown.
      outputs: their number.
    """
    return {str(i): i for i in range(outputs)} | {label: i for i, label in enumerate(classes)}


def check_apart(files: Iterable[Path], each: Sequence[Input], flag: str) -> None:
    """Raises UserError for a file to write that is one of the images.

    Args:
      files: the files.
      each: the images.
      flag: the flag that names the files.
    """
    images = {os.path.realpath(one.image) for one in each if isinstance(one.image, str)}
    for file in files:
        if os.path.realpath(file) in images:
            raise UserError(
                f'{flag} would replace {file}, one of the images: choose another place.'
            )


def _expanded(argument: str, known: frozenset[str]) -> Iterable[Input]:
    if argument == STDIN:
        return _stdin(sys.stdin.buffer.read())
    if not argument:
        raise UserError('the name of an image is empty: expected a file, folder, pattern or list.')
    path = paths.path(argument)
    if path.is_dir():
        return _folder(path, known)
    if path.suffix.lower() in LISTS:
        return _list(path)
    if glob.has_magic(argument) and not paths.is_remote(path) and not path.exists():
        return _matching(argument)
    return [Input(argument, argument)]


def _folder(folder: Path, known: frozenset[str]) -> list[Input]:
    if paths.is_remote(folder):
        with paths.explained(folder):
            every = (str(p.relative_to(folder)) for p in folder.rglob('*'))
            files = sorted(name for name in every if name.lower().endswith(SUFFIXES))
    else:
        left_out = LeftOut(folder)
        files = image_files(folder, left_out)
        left_out.report()
    if not files:
        raise UserError(f'{folder} has no images: expected files as {", ".join(SUFFIXES[:4])}.')
    return [
        Input(path, path, _label(name, known))
        for name in files
        for path in (str(folder / name) if paths.is_remote(folder) else os.path.join(folder, name),)
    ]


def _label(name: str, known: frozenset[str]) -> str:
    folders = name.split('/')[:-1]
    return next((folder for folder in reversed(folders) if folder in known), '')


def _matching(pattern: str) -> list[Input]:
    files = sorted(name for name in glob.glob(pattern, recursive=True) if not os.path.isdir(name))
    if not files:
        raise UserError(f'no file matches {pattern!r}: expected a pattern of images.')
    return [Input(name, name) for name in files]


def _list(file: Path) -> Iterator[Input]:
    try:
        text = file.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, 'strerror', None) or 'not UTF-8'
        raise UserError(f'{file} cannot be read ({why}): expected a list of paths.') from error
    delimiter = '\t' if file.suffix.lower() == '.tsv' else ','
    try:
        reader = csv.reader(io.StringIO(text), delimiter=delimiter)
        # A row is named by its last line: lines may be empty, and cells may have several.
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except csv.Error as error:
        raise UserError(f'{file} cannot be read ({error}): expected a list of paths.') from error
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    _check_delimiter(file, header, delimiter)
    column = next((header.index(name) for name in IMAGES if name in header), None)
    labels = None
    if column is not None:
        rows = rows[1:]
        labels = next((header.index(name) for name in LABELS if name in header), None)
    if not rows:
        raise UserError(f'{file} lists no images: expected a path on each line.')
    for number, row in rows:
        place = column or 0
        if place >= len(row) or not row[place]:
            raise UserError(f'{file}: line {number} has no path: expected one on each line.')
        path = row[place]
        if '\0' in path:
            raise UserError(f'{file}: line {number} has a path with a zero byte: expected none.')
        inner = file.parent / path
        there = os.path.exists(path) or paths.is_remote(path) or not inner.exists()
        label = row[labels] if labels is not None and labels < len(row) else ''
        yield Input(path, path if there else str(inner), label)


def _check_delimiter(file: Path, header: Sequence[str], delimiter: str) -> None:
    """Raises UserError for a header whose cells another character separates."""
    for other in ';\t,':
        cells = header[0].split(other) if len(header) == 1 else []
        if len(cells) > 1 and {cell.strip() for cell in cells} & {*IMAGES}:
            raise UserError(
                f'{file} separates its cells by {other!r}: expected {delimiter!r} in a '
                f'{file.suffix.lower()} list.'
            )


def _stdin(content: bytes) -> list[Input]:
    """Returns the image of standard input, or the images that its lines name.

    It is a list if it is UTF-8 or, as names of files need not be, if its first line is a file.
    """
    # Not splitlines: names may have the line ends of Unicode.
    lines = (line.removesuffix(b'\r') for line in content.split(b'\n'))
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if b'\0' in content or not (_is_utf8(content) or os.path.exists(names[0])):
        return [Input(STDIN, content)]
    if not names:
        raise UserError('standard input is empty: expected an image, or a path on each line.')
    return [Input(name, name) for name in names]


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def encodable(name: str) -> str:
    """Returns the name of a file as text of UTF-8, which names need not be."""
    return name.encode('utf-8', 'backslashreplace').decode()


def printable(name: str) -> str:
    """Returns the name of a file as a part of a line: line ends and control characters escaped."""
    control = r'[\x00-\x1f\x7f-\x9f\u2028\u2029]'
    return re.sub(control, lambda c: c[0].encode('unicode_escape').decode(), encodable(name))

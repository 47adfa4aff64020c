"""Generated tables in Markdown pages, between two marks."""

from collections.abc import Sequence
from pathlib import Path

from cls.errors import UserError
from cls.storage import paths

END = '<!-- end of the table -->'


def table(lines: Sequence[Sequence[str]]) -> str:
    """Returns a table of a header and rows in Markdown."""
    header, *rows = lines
    lines = (header, ['---'] * len(header), *rows)
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def renewed(text: str, begin: str, end: str, content: str) -> str:
    """Returns the text of a page with the content between two marks replaced.

    Raises UserError if the text does not have the two marks.
    """
    before, first, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise UserError(f'expected the marks {begin} and {end} around the table.')
    return f'{before}{begin}\n{content}\n{end}{after}'


def renew(file: Path, begin: str, content: str) -> None:
    """Renews the table of a page after a mark, atomically.

    Raises UserError if there is no such file, or if it lacks the marks.
    """
    write(file, renewed(text_of(file), begin, END, content))


def write(file: Path, text: str) -> None:
    """Writes a page atomically."""
    paths.write_whole(file, text.encode())


def check(file: Path, begin: str) -> None:
    """Raises UserError if the table of a page could not be renewed."""
    paths.check_file(file)
    renewed(text_of(file), begin, END, '')


def text_of(file: Path) -> str:
    """Returns the text of a page. Raises UserError if there is no such file."""
    if not file.is_file():
        raise UserError(f'{file}: no such file.')
    return file.read_text()

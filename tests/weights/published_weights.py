"""The published weights of golden/published.json.xz, and what recognition makes of each.

python tests/weights/published_weights.py                                prints the coverage
python tests/weights/published_weights.py --write cls/weights/README.md  writes it into the page
"""

import argparse
import collections
import dataclasses
import functools
import json
import lzma
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2]))

from cls.errors import UserError  # noqa: E402
from cls.tools import markdown  # noqa: E402
from cls.weights import recognition  # noqa: E402
from cls.weights.hints import Hints  # noqa: E402

FILE = Path(__file__).resolve().parents[1] / 'golden' / 'published.json.xz'
PACKAGES = ('torchvision', 'timm', 'pytorchcv')
BEGIN = (
    '<!-- coverage, by python tests/weights/published_weights.py --write cls/weights/README.md -->'
)
HEADER = ('package', 'published weights', 'fit', 'refused by name', 'fall through')


@dataclasses.dataclass(frozen=True)
class Row:
    """A published weight: its network in the package, tag, file, tensors and classes."""

    package: str
    network: str
    tag: str
    file: str
    number: int
    classes: int

    def __str__(self) -> str:
        return f'{self.package}:{self.network}' + (f'.{self.tag}' if self.tag else '')

    @property
    def hints(self) -> Hints:
        """The names that come with the file, as a user has it."""
        if self.package == 'timm':
            card = {'architecture': self.network, 'num_classes': self.classes}
            return Hints(card=card, repository=self.file, file='model.safetensors')
        return Hints(file=self.file)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of recognition: `kind` is a column of HEADER."""

    kind: str
    text: str
    match: recognition.Match | None = None


@functools.cache
def _table() -> dict:
    return json.loads(lzma.decompress(FILE.read_bytes()))


def rows() -> list[Row]:
    """Returns all published weights."""
    return [Row(*entry) for entry in _table()['entries']]


def distinct(some: Iterable[Row]) -> list[Row]:
    """Returns the first row of each network with its tensors."""
    return list(
        {(row.package, row.network, row.number): row for row in reversed([*some])}.values()
    )[::-1]


def tensors(row: Row) -> dict[str, np.ndarray]:
    """Returns the tensors of a row: ones that take no memory."""
    table = _table()
    flat = table['networks'][row.number]
    return {
        table['names'][name]: np.broadcast_to(np.ones((), dtype), shape)
        for name, (dtype, shape) in zip(
            flat[::2], (table['forms'][form] for form in flat[1::2]), strict=True
        )
    }


def outcome(row: Row, hints: Hints | None = None) -> Outcome:
    """Returns the outcome of the recognition of a row, with the names that come with it."""
    try:
        matches = recognition.recognize(tensors(row), hints or row.hints)
    except UserError as error:
        return Outcome(
            'refused by name' if 'is not here' in str(error) else 'fall through', str(error)
        )
    whole = [match for match in matches if match.part != recognition.BACKBONE or not row.classes]
    if len(whole) != 1:
        found = ', '.join(f'{match} {match.part}' for match in matches) or 'nothing'
        return Outcome('fall through', found)
    (match,) = whole
    if match.num_classes != row.classes:
        return Outcome('fall through', f'{match}, not {row.classes}')
    return Outcome('fit', str(match), match)


def coverage() -> str:
    """Returns the table of the coverage of each package in Markdown."""
    every = rows()
    kinds = {(row.package, row.network, row.number): outcome(row).kind for row in distinct(every)}
    lines = [HEADER]
    for package in PACKAGES:
        own = [row for row in every if row.package == package]
        count = collections.Counter(kinds[row.package, row.network, row.number] for row in own)
        lines.append((package, str(len(own)), *(str(count[kind]) for kind in HEADER[2:])))
    return markdown.table(lines)


def main() -> None:
    """Prints or writes the coverage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--write', type=Path)
    path = parser.parse_args().write
    if path:
        path.write_text(markdown.renewed(path.read_text(), BEGIN, markdown.END, coverage()))
    else:
        print(coverage())


if __name__ == '__main__':
    main()

"""The weights that packages publish for the variants: published.csv, one row each.

tests/golden/make_published.py writes the file from the packages alone. An empty column is a fact
that the package does not state. Hashes are of the file, after unpacking a .zip.
"""

import csv
import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from cls.weights import card as cards

_TEXTS = ('variant', 'package', 'name', 'tag', 'source', 'file', 'hash', 'interpolation', 'space')
_TEXTS += ('license',)
_NUMBERS = ('classes', 'size', 'resize', 'test_size', 'test_resize')
_BLOCK = 1 << 20
# Licenses of weights that exclude commercial use, by the names of the Hugging Face Hub.
_NON_COMMERCIAL = re.compile(r'-nc(-|$)')


@dataclasses.dataclass(frozen=True)
class Published:
    """One published set of weights.

    Attributes:
      variant: the variant that they fill.
      package, name, tag: the package, and its names of the network and of the weights.
      source: 'hf:OWNER/NAME', or a URL.
      file: the name of the file, '' if unknown.
      hash: 'sha256:', 'sha1:' or 'md5:' and hexadecimal digits, of sha256 maybe only the first; ''
        if the package states none. The Hub checks its own files.
      classes: the number of outputs.
      size, resize: pixels of the input, and of the shorter side before the center crop; 0 if the
        package does not state them.
      interpolation: as config.data.interpolation, or ''.
      mean, std: of pixels in 0..1, in RGB order; () if the package does not state them.
      space: 'BGR' if the first convolution expects the channels in this order, otherwise ''.
      test_size, test_resize: further pixels for evaluation, 0 for none.
      license: an identifier as on the Hub, '' if the package states none.
      top1: the package's accuracy in percent, None if it states none.
      default: whether the name of the variant alone stands for these weights.
    """

    variant: str
    package: str
    name: str
    tag: str
    source: str
    file: str
    hash: str
    classes: int
    size: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    space: str
    test_size: int
    test_resize: int
    license: str
    top1: float | None
    default: bool

    @property
    def title(self) -> str:
        """The package's name of the weights, as 'timm resnet50.a1_in1k'."""
        return f'{self.package} {self.name}' + (f'.{self.tag}' if self.tag else '')

    @property
    def images(self) -> tuple:
        """The preparation of images."""
        return self.size, self.resize, self.interpolation, self.mean, self.std


@functools.cache
def rows() -> tuple[Published, ...]:
    """Returns all rows, sorted by variant, package, name and tag."""
    text = resources.files('cls.weights').joinpath('published.csv').read_text()
    return tuple(map(_row, csv.DictReader(text.splitlines())))


def _row(columns: Mapping[str, str]) -> Published:
    fields: dict[str, Any] = {name: columns[name] for name in _TEXTS}
    fields |= {name: int(columns[name] or 0) for name in _NUMBERS}
    return Published(
        **fields,
        mean=tuple(map(float, columns['mean'].split())),
        std=tuple(map(float, columns['std'].split())),
        top1=float(columns['top1']) if columns['top1'] else None,
        default=columns['default'] == 'x',
    )


def of_variant(variant: str) -> tuple[Published, ...]:
    """Returns the rows of a variant."""
    return tuple(row for row in rows() if row.variant == variant)


def default(variant: str) -> Published | None:
    """Returns the weights that the name of a variant stands for, None if none are published."""
    return next((row for row in of_variant(variant) if row.default), None)


def named(name: str) -> Published | None:
    """Returns the row of a source, a file's name, or a name with a tag, as 'resnet50.a1_in1k'.

    Sources and names of the Hub may have '@REVISION'. None if no row or several have the name.
    """
    name = name.partition('@')[0]
    file = name.rpartition('/')[2]
    fitting = [
        row
        for row in rows()
        if name in (row.source, f'{row.name}.{row.tag}', f'{row.package}:{row.name}.{row.tag}')
        or (row.file and file in (row.file, f'{row.file}.zip'))
    ]
    # timm's rows name the files of the packages that it copied.
    publishers = [row for row in fitting if row.source.rpartition('/')[2] == file]
    if publishers:
        return max(publishers, key=lambda row: row.interpolation != '')
    return fitting[0] if len({row.source for row in fitting}) == 1 else None


def find(
    variant: str, source: str = '', file: Path | None = None, card: Mapping[str, Any] | None = None
) -> tuple[Published | None, str]:
    """Returns the row of a checkpoint, and its evidence; (None, '') without evidence.

    Args:
      variant: the variant of the checkpoint.
      source: the checkpoint as the user gave it: a file, a folder, a URL, or hf:OWNER/NAME.
      file: its file, whose name and content are compared.
      card: the config.json of its snapshot, whose architecture and tag are compared.
    """
    # timm's rows name the files of the packages that it copied: these packages first.
    own = sorted(of_variant(variant), key=lambda row: row.source.rpartition('/')[2] != row.file)
    location = source.partition('@')[0]
    for row in own:
        if row.source == location:
            return row, source
    word, tag = _architecture(card or {})
    for row in own:
        if tag and (row.package, row.name, row.tag) == ('timm', word, tag):
            return row, f'{word}.{tag} in config.json'
    if file is None:
        return None, ''
    for row in own:
        if row.file and file.name in (row.file, f'{row.file}.zip'):
            return row, f'the name of {file.name}'
    for kind in ('sha256', 'sha1', 'md5'):
        if hashes := {row.hash.partition(':')[2]: row for row in own if row.hash.startswith(kind)}:
            digest = _digest(file, kind)
            for start, row in hashes.items():
                if digest.startswith(start):
                    return row, f'the {kind} of {file.name}'
    return None, ''


def _architecture(card: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the architecture and the tag of a card of timm, '' for those that it lacks."""
    word = cards.word(card).removeprefix('hf-hub:').rpartition('/')[2]
    name, _, tag = word.partition('.')
    stated = cards.preprocessing(card).get('tag') or tag
    return name, stated if isinstance(stated, str) else ''


def _digest(file: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with file.open('rb') as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_commercial(license: str) -> bool:
    """Returns whether a license is not known to exclude commercial use."""
    return not _NON_COMMERCIAL.search(license.lower())

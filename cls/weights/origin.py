"""The origin of imported weights, in weights.json of a run folder."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cls.errors import UserError
from cls.storage import paths
from cls.weights import card as cards
from cls.weights import published
from cls.weights.hub import CARD, README, Located
from cls.weights.images import Preparation

FILE = 'weights.json'


@dataclasses.dataclass(frozen=True)
class Origin:
    """The origin of a run's first weights.

    Attributes:
      source: the checkpoint as the user gave it.
      sha256: of its file.
      package: the package whose names the tensors had, '' for that of the variant's reference.
      published: the title of the published weights that these are, '' if unknown.
      license: an identifier as on the Hugging Face Hub, '' if none is stated.
      license_from: the file or table that states it.
      top1: the accuracy that the package states, in percent.
      bgr: whether the first convolution was reversed, from BGR to RGB.
    """

    source: str
    sha256: str = ''
    package: str = ''
    published: str = ''
    license: str = ''
    license_from: str = ''
    top1: float | None = None
    bgr: bool = False

    def lines(self) -> list[str]:
        """Returns lines on the origin and the license, to print."""
        if not self.license:
            return [f'License: {self.source} states none; ask its authors before you publish.']
        line = f'License: {self.license} (from {self.license_from})'
        return [line + ('.' if published.is_commercial(self.license) else ': no commercial use.')]


def of(source: str, located: Located, prepared: Preparation, package: str, bgr: bool) -> Origin:
    """Returns the origin of a checkpoint: of its metadata, and else of the published weights."""
    row = prepared.row
    license, license_from = located.license, README
    of_card = located.card.get('license') or cards.preprocessing(located.card).get('license')
    if not license and isinstance(of_card, str):
        license, license_from = of_card, CARD
    if not license and row is not None:
        license, license_from = row.license, f'the table of {row.package}'
    with located.file.open('rb') as stream:
        digest = hashlib.file_digest(stream, 'sha256').hexdigest()
    return Origin(
        source,
        digest,
        package,
        row.title if row else '',
        license,
        license_from if license else '',
        row.top1 if row else None,
        bgr,
    )


def write(workdir: Path, origin: Origin) -> None:
    """Writes weights.json."""
    text = json.dumps(dataclasses.asdict(origin), indent=2) + '\n'
    paths.write_whole(workdir / FILE, text.encode())


def read(workdir: str | os.PathLike) -> Origin | None:
    """Returns the origin in a run folder, None if it has none.

    Raises UserError if weights.json cannot be read.
    """
    file = paths.path(workdir) / FILE
    if not file.is_file():
        return None
    try:
        fields: Any = paths.parse_json(file.read_text())
        known = {field.name for field in dataclasses.fields(Origin)}
        return Origin(**{name: value for name, value in fields.items() if name in known})
    except (ValueError, TypeError, AttributeError, OSError):
        raise UserError(f'{file}: expected the JSON that `cls import` writes.') from None

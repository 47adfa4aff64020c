"""Files of genotypes: JSON that `--config.model.genotype=FILE` reads."""

import json
from pathlib import Path
from typing import Any

from cls.errors import UserError
from cls.models.registry.genotypes import plain
from cls.storage import download, paths


def load(path: str | Path) -> Any:
    """Returns the plain data of a genotype's JSON file. Raises UserError when it cannot be read."""
    try:
        return paths.parse_json(download.fetched(path).read_text())
    except OSError as error:
        raise UserError(f'cannot read the genotype {path}: {error.strerror}.') from None
    except ValueError as error:
        raise UserError(f'the genotype {path} is not JSON: {error}.') from None


def save(genotype: Any, path: str | Path) -> None:
    """Writes a genotype as JSON, for `--config.model.genotype=FILE`."""
    paths.write_whole(paths.path(path), (json.dumps(plain(genotype), indent=1) + '\n').encode())

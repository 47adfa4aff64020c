"""Locating a checkpoint's file, and the metadata next to it."""

import contextlib
import dataclasses
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cls.errors import UserError
from cls.run.checkpoint_files import PLACE, is_run
from cls.storage import download, paths
from cls.weights import card as cards
from cls.weights.files import INDEX, parts_of

CARD = 'config.json'
PROCESSOR = 'preprocessor_config.json'  # the preparation of images of Transformers' models
README = 'README.md'
# The weights of a snapshot on the Hugging Face Hub; an index names the files of several parts.
FILES = (
    *('model.safetensors', 'pytorch_model.bin'),
    *('model.safetensors.index.json', 'pytorch_model.bin.index.json'),
)
HUB = 'hf:'


@dataclasses.dataclass(frozen=True)
class Located:
    """A checkpoint's file, and the metadata of its snapshot ({} and '' without a snapshot).

    Attributes:
      file: the file.
      card: config.json.
      processor: preprocessor_config.json, of Transformers.
      license: the license in the metadata of README.md.
    """

    file: Path
    card: dict[str, Any]
    processor: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    license: str = ''

    @contextlib.contextmanager
    def naming_card(self) -> Iterator[None]:
        """Puts the path of the card before the message of a UserError on it."""
        try:
            yield
        except UserError as error:
            where = self.file.parent / CARD if self.card else self.file
            raise UserError(f'{where}: {error}. If that is wrong, {self._remedy()}') from None

    def _remedy(self) -> str:
        return f'fix it, or give only {self.file}' if self.card else 'save only the state_dict'


def locate(source: str) -> Located:
    """Returns the files of a checkpoint.

    Args:
      source: a file; or a folder in the layout of the Hugging Face Hub (model.safetensors or
        pytorch_model.bin, or the index of their parts, and config.json); or 'hf:OWNER/NAME', with
        an optional '@REVISION'. Files and folders in a store (gs://, s3://) are copied to the
        cache. hf: is fetched from the Hub or found in its local cache.

    Raises:
      UserError: the source does not exist, or the Hub cannot be reached.
    """
    if source.startswith(HUB):
        return _fetch(source)
    path = download.fetched(source)
    if not path.is_dir():
        return Located(path, {})
    file = next((path / name for name in FILES if (path / name).is_file()), None)
    indices = sorted(path.glob('*.index'))  # of a checkpoint of TensorFlow
    file = file or (indices[0] if len(indices) == 1 else None)
    if file is None:
        _refuse_run(path, source)
        there = ', '.join(sorted(x.name for x in path.iterdir())[:8]) or 'nothing'
        raise UserError(
            f'{path}: expected one of {", ".join(FILES)} in this folder, which has {there}. Give '
            "the weights' file itself; of one in several parts, its index."
        )
    return _with_metadata(file, *(path / name for name in (CARD, PROCESSOR, README)))


def _refuse_run(path: Path, source: str) -> None:
    """Raises UserError if a folder is a run's, or one of its checkpoints'."""
    own = (path, source), *((p.parent, p.parent) for p in (path, *path.parents) if p.name == PLACE)
    for folder, shown in own:
        if (folder / CARD).is_file() and is_run(folder):
            raise UserError(
                f'{shown} is a run folder already, expected weights of a package. It needs no '
                f"import: cls.load('{shown}'), cls evaluate --workdir {shown}, or, to train from "
                f'its weights, --config.init={shown}.'
            )


def _fetch(source: str) -> Located:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    from huggingface_hub.errors import LocalEntryNotFoundError as NotCachedError

    name, _, revision = source.removeprefix(HUB).partition('@')
    options = {'revision': revision or None, 'local_files_only': not _reachable()}
    error = None
    for file in FILES:
        try:
            weights = Path(hf_hub_download(name, file, **options))
            if file.endswith(INDEX):
                for part in sorted(set(parts_of(weights).values())):
                    hf_hub_download(name, part, **options)
        except NotCachedError:
            raise UserError(
                f'{source}: the Hugging Face Hub cannot be reached, and the local cache has no '
                f'{file} of it. Copy the snapshot here and give its folder.'
            ) from None
        except EntryNotFoundError as missing:
            error = missing
            continue
        except (HfHubHTTPError, ValueError) as refused:  # no such repository; a malformed name
            raise UserError(f'{source}: {str(refused).splitlines()[0]}') from None
        found = []
        for more in (CARD, PROCESSOR, README):
            try:
                found.append(Path(hf_hub_download(name, more, **options)))
            except (EntryNotFoundError, NotCachedError):
                found.append(weights.parent / more)
        return _with_metadata(weights, *found)
    raise UserError(f'{source}: it has none of {", ".join(FILES)}.') from error


def _with_metadata(file: Path, card: Path, images: Path, readme: Path) -> Located:
    """Returns a file with the metadata next to it, as far as there is any."""
    text = readme.read_text(errors='replace') if readme.is_file() else ''
    return Located(file, _card(card), _card(images), cards.license_of(text))


def _reachable() -> bool:
    """Returns whether the Hub's name can be resolved; otherwise its client retries for long."""
    from huggingface_hub import constants

    if any(name.lower() in ('https_proxy', 'all_proxy') for name in os.environ):
        return True  # a proxy resolves names that this machine cannot
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except (OSError, UnicodeError):
        return False
    return True


def _card(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        card = paths.parse_json(file.read_text())
    except ValueError:
        raise UserError(f'{file}: expected JSON.') from None
    if not isinstance(card, dict):
        raise UserError(f'{file}: expected an object, {{...}}.')
    return card

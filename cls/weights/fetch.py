"""Files of published weights in the cache: fetched once, and compared with their hashes."""

import hashlib
import http.client
import logging
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from cls.errors import UserError, reason
from cls.storage import paths
from cls.storage.cache import cache_dir
from cls.weights.hub import HUB
from cls.weights.published import Published

log = logging.getLogger(__name__)

_SECONDS = 30  # without an answer of a server
_BLOCK = 1 << 20
_LARGEST = 4 << 30  # bytes of a file in an archive; the largest published weights have 2 GB


def fetch(row: Published) -> str:
    """Returns the source of published weights for `hub.locate`: 'hf:...', or a file in the cache.

    Raises UserError, without a partial file, if the file is not in the cache and cannot be fetched,
    or has another hash than the table states.
    """
    if row.source.startswith(HUB):
        return row.source
    place = cache_dir() / 'weights' / row.package / Path(urlsplit(row.source).path).name
    place = place.with_name(place.name.removesuffix('.zip'))
    with paths.explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with paths.only_one(place.with_name(f'.{place.name}.lock')):
            if not place.exists():
                _download(row, place)
    return str(place)


def _download(row: Published, place: Path) -> None:
    partial = place.with_name(f'.{place.name}.partial')
    log.info('%s: fetching %s to %s, once', row.title, row.source, place.parent)
    try:
        with (
            urllib.request.urlopen(row.source, timeout=_SECONDS) as answer,
            partial.open('wb') as file,
        ):
            shutil.copyfileobj(answer, file, _BLOCK)
        if row.source.endswith('.zip'):
            _unpack(row, partial)
        _check(row, partial)
        partial.replace(place)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        why = getattr(error, 'reason', None) or error
        raise UserError(
            f'{row.title}: {row.source} cannot be fetched ({why}), and the cache has no copy. Copy '
            f'the file to {place}, or give it as the place to load from.'
        ) from error
    except ConnectionError as error:
        raise UserError(f'{row.title}: {row.source}: {reason(error) or error}') from error
    finally:
        partial.unlink(missing_ok=True)


def _unpack(row: Published, partial: Path) -> None:
    """Replaces an archive of one file by that file."""
    inner = partial.with_name(f'{partial.name}.inner')
    try:
        with zipfile.ZipFile(partial) as archive:
            entries = [info for info in archive.infolist() if not info.is_dir()]
            if len(entries) != 1 or entries[0].file_size > _LARGEST:
                raise UserError(f'{row.source}: expected an archive of one file of weights.')
            with archive.open(entries[0]) as file, inner.open('wb') as copy:
                shutil.copyfileobj(file, copy, _BLOCK)
        inner.replace(partial)
    except zipfile.BadZipFile as error:
        raise UserError(f'{row.source}: the fetched file is no archive ({error}).') from error
    finally:
        inner.unlink(missing_ok=True)


def _check(row: Published, file: Path) -> None:
    kind, _, digits = row.hash.partition(':')
    if not digits:
        return
    digest = hashlib.new(kind, usedforsecurity=False)
    for block in _blocks(file):
        digest.update(block)
    if not digest.hexdigest().startswith(digits):
        raise UserError(
            f'{row.source}: the fetched file has {kind} {digest.hexdigest()[: len(digits)]}, '
            f'expected {digits}: it is damaged, or was replaced.'
        )


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open('rb') as stream:
        while block := stream.read(_BLOCK):
            yield block

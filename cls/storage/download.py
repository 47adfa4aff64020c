"""Copies of remote files and folders in the cache, for libraries that read only local ones."""

import functools
import hashlib
import logging
import os
import shutil
from pathlib import Path

from cls.errors import UserError
from cls.storage import paths
from cls.storage.cache import cache_dir

log = logging.getLogger(__name__)


def fetched(source: str | os.PathLike) -> Path:
    """Returns a local path: for a file or folder in a store, that of its copy in the cache.

    The copy is made only once, by one process, and logged; an interrupted copy is continued. A
    copied folder is not compared with the store again: remove it to have it copied again. A file
    that has changed in the store is copied again.

    Raises UserError if it does not exist, cannot be read, or the disk has no room for it.
    """
    source = paths.path(source)
    return _copied(source) if paths.is_remote(source) else source


@functools.cache
def _copied(source: Path) -> Path:
    with paths.explained(source):
        scheme, _, name = os.fspath(source).partition('://')
        place = cache_dir() / 'fetched' / scheme / name
        if place.is_dir() and not paths.filesystem(source).isfile(os.fspath(source)):
            log.info('%s: read from its copy in %s', source, place)
            return place
        return _fetched_file(source, place) if source.is_file() else _fetched_folder(source, place)


def _fetched_file(source: Path, place: Path) -> Path:
    entry = paths.filesystem(source).info(os.fspath(source))
    version = hashlib.sha256(paths.fingerprint(entry).encode()).hexdigest()[:12]
    place = place.with_name(f'.{version}') / place.name
    place.parent.mkdir(parents=True, exist_ok=True)
    with paths.only_one(place.parent / '.lock'):
        if not place.exists():
            partial = place.with_name(f'.{place.name}.partial')
            _check_room(source, entry['size'], place.parent)
            paths.filesystem(source).get_file(os.fspath(source), str(partial))
            partial.replace(place)
    return place


def _fetched_folder(source: Path, place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    with paths.only_one(place.with_name(f'.{place.name}.lock')):
        if place.is_dir():  # another process was first
            return place
        sizes = {name: entry['size'] for name, entry in paths.find(source).items()}
        if not sizes:
            raise UserError(f'{source}: nothing is there.')
        partial = place.with_name(f'.{place.name}.partial')
        partial.mkdir(exist_ok=True)
        there = sum((partial / name).stat().st_size for name in sizes if (partial / name).is_file())
        total = sum(sizes.values())
        _check_room(source, total - there, partial)
        amount = f'{len(sizes):,} files, {total / 2**20:,.1f} MiB'
        log.info('%s: copying %s to %s, once', source, amount, place)
        paths.fetch_files(source, sizes, partial)
        partial.rename(place)
    return place


def _check_room(source: Path, size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f'no space left for a copy of {source} in {folder}: it takes {size / 2**20:,.1f} MiB, '
            f'{free / 2**20:,.1f} MiB are free. Make room, or set CLS_CACHE_DIR to another disk.'
        )

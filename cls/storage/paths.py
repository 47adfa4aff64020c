"""Paths on this machine and on object stores, gs://BUCKET/... and s3://BUCKET/...

A path here stays a `pathlib.Path`; one in a store is an `epath.Path`, which does most of what a
`pathlib.Path` does, through fsspec. What such stores do otherwise:

  - an object appears whole or not at all, and cannot be appended to or locked (see
  `cls.storage.lock`); - there are no folders, just names with slashes, so none is made;
  - renaming is copying, so files are written under their own names (`write_whole`).

What is written bit by bit is written here, in a folder that `Mirror` copies to the store. Data sets
and weights are copied here once, where they cannot be read in place (`fetched`).
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cls.errors import UserError, nearest
from cls.storage.cache import cache_dir

log = logging.getLogger(__name__)

PACKAGES = {'gs': 'gcsfs', 's3': 's3fs'}  # optional requirements, see pyproject.toml
CHUNK = 256  # files that are fetched together

# Through fsspec even where TensorFlow is installed: one way, tested, and its errors are known.
os.environ.setdefault('EPATH_USE_TF', 'false')


def path(text: str | os.PathLike) -> Path:
    """Returns a path, ~ expanded.

    Raises UserError for a URL of a kind that is not known, one without a bucket, and where the
    package that reads it is not installed.
    """
    text = os.fspath(text)
    if '://' not in text:
        return Path(text).expanduser()
    scheme, _, rest = text.partition('://')
    if scheme not in PACKAGES:
        raise UserError(
            f'{text}: expected gs://BUCKET/..., s3://BUCKET/... or a folder of this machine.'
            f'{nearest(scheme, PACKAGES)}'
        )
    if not rest.strip('/'):
        raise UserError(f'{text} names no bucket: expected {scheme}://BUCKET/...')
    _check_inside(rest, text)
    package = PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise UserError(f'{text} needs the package {package}: run `pip install {package}`.')
    _settle(scheme)
    from etils import epath

    return epath.Path(text.rstrip('/'))


@functools.cache
def _settle(scheme: str) -> None:
    """Turns off the cache of listings: other programs, and TensorStore, write there too."""
    import fsspec

    fsspec.config.conf.setdefault(scheme, {}).setdefault('use_listings_cache', False)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is in an object store."""
    return '://' in os.fspath(path)


def orbax_writes_to(path: str | os.PathLike) -> bool:
    """Whether Orbax reads and writes checkpoints there: in folders, and in Google's store."""
    return not is_remote(path) or os.fspath(path).startswith('gs://')


def filesystem(path: os.PathLike) -> Any:
    """Returns fsspec's file system of a path in a store."""
    import fsspec

    return fsspec.filesystem(os.fspath(path).partition('://')[0])


@contextlib.contextmanager
def explained(what: str | os.PathLike) -> Iterator[None]:
    """Turns what fsspec and the libraries under it raise, of no common class, into a line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(
            f'{os.fspath(what)} cannot be used ({type(error).__name__}: {reason}): expected a '
            'bucket that exists, and credentials that may list, read and write there.'
        ) from error


def checked(text: str | os.PathLike) -> Path:
    """Returns `path`; raises UserError also for a bucket that is not there or may not be listed."""
    found = path(text)
    if is_remote(found):
        with explained(found):
            try:
                filesystem(found).ls(os.fspath(found), detail=False)
            except FileNotFoundError:  # nothing has this name yet; a bucket can be misspelt
                filesystem(found).ls(f'{found.parts[2]}', detail=False)
    return found


def make_folder(folder: Path) -> None:
    """Makes a folder with its parents, where there are folders."""
    if not is_remote(folder):  # fsspec would make a bucket
        folder.mkdir(parents=True, exist_ok=True)


def parse_json(text: str | bytes) -> Any:
    """Returns what JSON text holds.

    Raises ValueError for text that is none, however deeply it is nested.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError('nested too deeply') from None


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file in one piece, unless it has that content: a reader sees the old or the new one.

    So does who comes after a loss of power. A process that is killed here leaves a file called
    `.NAME.PROCESS.partial`, see `remove_partial`.
    """
    if is_remote(path):
        path.write_bytes(content)
        return
    with contextlib.suppress(OSError):
        if path.stat().st_size == len(content) and path.read_bytes() == content:
            return
    partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
    try:
        with partial.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def unused(path: Path) -> Path:
    """Returns a path, or if it exists the first of PATH-1, PATH-2, ... that does not."""
    more = (path.with_name(f'{path.name}-{i}') for i in itertools.count(1))
    return next(name for name in itertools.chain([path], more) if not name.exists())


def remove_partial(folder: Path) -> None:
    """Removes what processes that were killed in `write_whole` have left in a folder."""
    for left in [] if is_remote(folder) else folder.glob('.*.partial'):
        left.unlink(missing_ok=True)


def find(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns what is known of all objects under a name: relative name -> fsspec's description."""
    system = filesystem(folder)
    root = system._strip_protocol(os.fspath(folder)).rstrip('/') + '/'
    found = system.find(root, detail=True)
    entries = {
        name.removeprefix(root): entry
        for name, entry in sorted(found.items())
        if not name.endswith('/') and name != root.rstrip('/')  # markers of folders
    }
    for name in entries:
        _check_inside(name, folder)
    return entries


def _check_inside(name: str, where: str | os.PathLike) -> None:
    """Raises UserError for an object whose copy would come to lie outside of the copied folder."""
    if name.startswith('/') or '..' in name.split('/'):
        raise UserError(
            f'{os.fspath(where)} names an object {name!r}: expected no name with .. or a leading / '
            'in it, which on this machine would be in another folder.'
        )


def fingerprint(entry: dict[str, Any]) -> str:
    """Returns what changes with an object's content, of its description: no need to read it."""
    sums = (entry.get(name) for name in ('crc32c', 'md5Hash', 'ETag', 'etag'))
    return f'{entry["size"]} {next(filter(None, sums), "")}'


def move(folder: Path, to: Path) -> None:
    """Renames a folder; in a store by copying what is in it."""
    if not is_remote(folder):
        folder.rename(to)
        return
    system, names = filesystem(folder), list(find(folder))
    old, new = ([f'{os.fspath(root)}/{name}' for name in names] for root in (folder, to))
    system.copy(old, new)  # s3fs fails when it is to move a whole folder
    system.rm(old)


def remove(folder: Path) -> None:
    """Removes a folder, with what is in it."""
    if is_remote(folder):
        filesystem(folder).rm(os.fspath(folder), recursive=True)
    else:
        shutil.rmtree(folder)


def upload(file: Path, to: Path) -> None:
    """Copies a file of this machine to a store."""
    filesystem(to).put_file(str(file), os.fspath(to))


def download(folder: Path, to: Path) -> None:
    """Copies what is under a name in a store to a folder of this machine, which is made."""
    _fetch_files(folder, {name: entry['size'] for name, entry in find(folder).items()}, to)


def _fetch_files(folder: Path, sizes: dict[str, int], to: Path) -> None:
    """Copies files of these sizes, many at once, but for those that are there already."""
    system, root = filesystem(folder), os.fspath(folder)
    missing = [
        name
        for name, size in sizes.items()
        if not (to / name).is_file() or (to / name).stat().st_size != size
    ]
    for parent in {(to / name).parent for name in missing}:
        parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(missing), CHUNK):
        names = missing[start : start + CHUNK]
        system.get([f'{root}/{name}' for name in names], [str(to / name) for name in names])


# ------------------------------------------------------------------------------------------------
# Folders of this machine for what belongs in a store
# ------------------------------------------------------------------------------------------------


class Scratch:
    """A folder of this machine for the duration; what killed processes left is cleared away."""

    def __init__(self) -> None:
        root = cache_dir() / 'scratch'
        root.mkdir(parents=True, exist_ok=True)
        with _only_one(root / '.lock'):
            for other in root.iterdir():
                if other.is_dir() and _is_abandoned(other):
                    shutil.rmtree(other, ignore_errors=True)
            self._held = Path(tempfile.mkdtemp(dir=root))
            self._lock = (self._held / '.lock').open('w')
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.folder = self._held / 'files'
        self.folder.mkdir()

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self._held, ignore_errors=True)
        self._lock.close()


def _is_abandoned(folder: Path) -> bool:
    """Whether the process that made a scratch folder has ended: the kernel let go of its lock."""
    with (folder / '.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Mirror:
    """A folder of this machine, `folder`, whose files are copied to a store as they change."""

    def __init__(self, to: Path) -> None:
        self._scratch, self._to = Scratch(), to
        self._sent: dict[Path, tuple[int, int]] = {}
        self.folder = self._scratch.folder

    def send(self) -> None:
        """Copies the files that have changed."""
        for file in sorted(self.folder.rglob('*')):
            if file.is_file():
                state = file.stat()
                if self._sent.get(file) != (now := (state.st_size, state.st_mtime_ns)):
                    upload(file, self._to / file.relative_to(self.folder).as_posix())
                    self._sent[file] = now

    def close(self) -> None:
        """Sends, and removes the folder."""
        self.send()
        self._scratch.close()


# ------------------------------------------------------------------------------------------------
# Copies of what is read
# ------------------------------------------------------------------------------------------------


def fetched(source: str | os.PathLike) -> Path:
    """Returns a path of this machine: of a file or folder in a store, its copy in the cache.

    The copy is made once, by one process, and says so; it can be broken off and goes on where it
    was. A copied folder is taken as it is from then on, without another look at the store: remove
    it to have it copied anew. A file that has changed in the store is copied anew.

    Raises UserError when nothing is there, it cannot be read, or the disk has no room for it.
    """
    source = path(source)
    return _copied(source) if is_remote(source) else source


@functools.cache
def _copied(source: Path) -> Path:
    with explained(source):
        scheme, _, name = os.fspath(source).partition('://')
        place = cache_dir() / 'fetched' / scheme / name
        if place.is_dir() and not filesystem(source).isfile(os.fspath(source)):
            log.info('%s: read from its copy in %s', source, place)
            return place
        return _fetched_file(source, place) if source.is_file() else _fetched_folder(source, place)


def _fetched_file(source: Path, place: Path) -> Path:
    entry = filesystem(source).info(os.fspath(source))
    version = hashlib.sha256(fingerprint(entry).encode()).hexdigest()[:12]
    place = place.with_name(f'.{version}') / place.name
    place.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(place.parent / '.lock'):
        if not place.exists():
            partial = place.with_name(f'.{place.name}.partial')
            _check_room(source, entry['size'], place.parent)
            filesystem(source).get_file(os.fspath(source), str(partial))
            partial.replace(place)
    return place


def _fetched_folder(source: Path, place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(place.with_name(f'.{place.name}.lock')):
        if place.is_dir():  # another process was first
            return place
        sizes = {name: entry['size'] for name, entry in find(source).items()}
        if not sizes:
            raise UserError(f'{source}: nothing is there.')
        partial = place.with_name(f'.{place.name}.partial')
        partial.mkdir(exist_ok=True)
        there = sum((partial / name).stat().st_size for name in sizes if (partial / name).is_file())
        total = sum(sizes.values())
        _check_room(source, total - there, partial)
        amount = f'{len(sizes):,} files, {total / 2**20:,.1f} MiB'
        log.info('%s: copying %s to %s, once', source, amount, place)
        _fetch_files(source, sizes, partial)
        partial.rename(place)
    return place


def _check_room(source: Path, size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f'no space left for a copy of {source} in {folder}: it takes {size / 2**20:,.1f} MiB, '
            f'{free / 2**20:,.1f} MiB are free. Make room, or set CLS_CACHE_DIR to another disk.'
        )

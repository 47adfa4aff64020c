"""Paths on this machine and in object stores, gs://BUCKET/... and s3://BUCKET/...

A local path is a `pathlib.Path`; one in a store is an `epath.Path`, with most methods of
`pathlib.Path`, through fsspec. Stores differ from disks in three ways:

  - an object appears as a whole, and cannot be locked (see `cls.storage.lock`) or written to, only
    joined with another (see `append`);
  - there are no folders, only names with slashes, so none is made;
  - renaming is copying, so files are written under their final names (`write_whole`).

Files that grow are written to a local folder, and `Mirror` copies their new parts.
"""

import contextlib
import fcntl
import functools
import importlib.util
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cls.errors import UserError, nearest
from cls.storage.cache import cache_dir

log = logging.getLogger(__name__)

PACKAGES = {'gs': 'gcsfs', 's3': 's3fs'}  # optional requirements, see pyproject.toml
CHUNK = 256  # files that are fetched together
S3_PART = 5 * 2**20  # bytes, the least that S3 takes for all but the last part of an object

# Through fsspec even with TensorFlow installed: a single tested way with known errors.
os.environ.setdefault('EPATH_USE_TF', 'false')


def path(text: str | os.PathLike) -> Path:
    """Returns a path, with ~ expanded.

    Raises UserError for a URL of an unknown scheme or without a bucket, and if the package that
    reads it is not installed.
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

    remote: Any = epath.Path(text.rstrip('/'))  # not a Path for a type checker
    return remote


@functools.cache
def _settle(scheme: str) -> None:
    """Disables the cache of listings: other programs, and TensorStore, also write to the store."""
    import fsspec.config

    fsspec.config.conf.setdefault(scheme, {}).setdefault('use_listings_cache', False)


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path is in an object store."""
    return '://' in os.fspath(path)


def orbax_writes_to(path: str | os.PathLike) -> bool:
    """Returns whether Orbax can keep checkpoints there: in local folders and on gs://."""
    return not is_remote(path) or os.fspath(path).startswith('gs://')


def filesystem(path: os.PathLike) -> Any:
    """Returns the fsspec file system of a path in a store."""
    import fsspec

    return fsspec.filesystem(os.fspath(path).partition('://')[0])


@contextlib.contextmanager
def explained(what: str | os.PathLike) -> Iterator[None]:
    """Turns errors of fsspec and its libraries, which have no common class, into a UserError."""
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
    """Returns `path`. Raises UserError also for a bucket that is missing or may not be listed."""
    checked_path = path(text)
    if is_remote(checked_path):
        with explained(checked_path):
            try:
                filesystem(checked_path).ls(os.fspath(checked_path), detail=False)
            except FileNotFoundError:  # nothing has this name yet, or the bucket is misspelled
                filesystem(checked_path).ls(f'{checked_path.parts[2]}', detail=False)
    return checked_path


def make_folder(folder: Path) -> None:
    """Makes a local folder with its parents; a store needs none."""
    if not is_remote(folder):  # fsspec would make a bucket
        folder.mkdir(parents=True, exist_ok=True)


def check_file(file: Path) -> None:
    """Raises UserError for a file that cannot be written, as a folder; not for stores."""
    if is_remote(file):
        return
    folder = file.absolute().parent
    if file.is_dir():
        raise UserError(f'{file} is a folder: expected a file to write.')
    _check_regular(file)
    if not folder.is_dir():
        raise UserError(f'{file}: there is no folder {file.parent}: expected one to write to.')
    if not os.access(folder, os.W_OK):
        raise UserError(f'{file}: {folder} may not be written to: choose another folder.')


def _check_regular(file: Path) -> None:
    """Raises UserError for a device or a pipe: a file would take its place, also of /dev/null."""
    if file.exists() and not file.is_file() and not file.is_dir():
        raise UserError(
            f'{file} is a device or a pipe, and a file would replace it: expected a file to write.'
        )


def check_new(file: Path, force: bool = False) -> None:
    """Raises UserError as `check_file`, and for a file that exists unless `force` replaces it."""
    check_file(file)
    if not force and file.exists():
        raise UserError(
            f'{file} exists: expected a new file; choose another name, or --force to replace it.'
        )


def parse_json(text: str | bytes) -> Any:
    """Returns the value of JSON text. Raises ValueError for other text, and for deep nesting."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError('nested too deeply') from None


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically, unless it has that content already.

    A reader sees the old or the new content, see `writing`.
    """
    if is_remote(path):
        path.write_bytes(content)
        return
    _check_regular(path)  # reading a pipe would wait
    with contextlib.suppress(OSError):
        if path.stat().st_size == len(content) and path.read_bytes() == content:
            return
    with writing(path) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A context with a file for the new content of a path, written atomically if it does not raise.

    A reader sees the old or the new content, also after a loss of power. A process that is killed
    while writing leaves a file `.NAME.PROCESS.partial`, see `remove_partial`. Raises UserError for
    a device or a pipe.
    """
    if is_remote(path):
        with tempfile.NamedTemporaryFile() as file:
            yield file  # pyright: ignore[reportReturnType]
            file.flush()
            upload(Path(file.name), path)
        return
    _check_regular(path)
    partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
    try:
        with partial.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def unused(path: Path) -> Path:
    """Returns a path or, if it exists, the first of PATH-1, PATH-2, ... that does not."""
    more = (path.with_name(f'{path.name}-{i}') for i in itertools.count(1))
    return next(name for name in itertools.chain([path], more) if not name.exists())


def remove_partial(folder: Path) -> None:
    """Removes the partial files of processes that were killed in `write_whole`."""
    for left in [] if is_remote(folder) else folder.glob('.*.partial'):
        left.unlink(missing_ok=True)


def find(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the objects under a name: relative name -> fsspec's description."""
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
    """Raises UserError for an object whose copy would be outside of the copied folder."""
    if name.startswith('/') or '..' in name.split('/'):
        raise UserError(
            f'{os.fspath(where)} names an object {name!r}: expected no name with .. or a leading / '
            'in it, which on this machine would be in another folder.'
        )


def fingerprint(entry: dict[str, Any]) -> str:
    """Returns the part of an object's description that changes with its content."""
    sums = (entry.get(name) for name in ('crc32c', 'md5Hash', 'ETag', 'etag'))
    return f'{entry["size"]} {next(filter(None, sums), "")}'


def move(folder: Path, to: Path) -> None:
    """Renames a folder; in a store by copying its objects."""
    if not is_remote(folder):
        folder.rename(to)
        return
    system, names = filesystem(folder), list(find(folder))
    old, new = ([f'{os.fspath(root)}/{name}' for name in names] for root in (folder, to))
    system.copy(old, new)  # s3fs fails to move a whole folder
    system.rm(old)


def remove(folder: Path) -> None:
    """Removes a folder and its contents."""
    if is_remote(folder):
        filesystem(folder).rm(os.fspath(folder), recursive=True)
    else:
        shutil.rmtree(folder)


def upload(file: Path, to: Path) -> None:
    """Copies a local file to a store."""
    filesystem(to).put_file(str(file), os.fspath(to))


def append(file: Path, start: int, end: int, to: Path) -> None:
    """Appends the bytes from `start` to `end` of a local file to its copy in a store.

    The copy is replaced as a whole: its reader sees the old or the new content. The store joins the
    parts, so only the new one is sent; except that S3 joins no parts below 5 MiB: up to that size
    the file is sent again. It is also sent again if the copy does not have `start` bytes, as after
    an append whose reply was lost.
    """
    system, name = filesystem(to), os.fspath(to)
    composes = name.startswith('gs://')
    size = None
    with contextlib.suppress(FileNotFoundError):
        size = system.info(name)['size']
    if size != start or not (composes or start >= S3_PART):
        upload(file, to)
        return
    with file.open('rb') as content:
        content.seek(start)
        new = content.read(end - start)
    if not composes:
        with system.open(name, 'ab') as copy:
            copy.write(new)
        return
    part = os.fspath(to.with_name(f'.{to.name}.part'))
    system.pipe_file(part, new)
    system.merge(name, [name, part])
    system.rm_file(part)


def download(folder: Path, to: Path) -> None:
    """Copies the objects under a name to a new local folder."""
    fetch_files(folder, {name: entry['size'] for name, entry in find(folder).items()}, to)


def fetch_files(folder: Path, sizes: dict[str, int], to: Path) -> None:
    """Copies files of the given sizes in parallel, except those that are already complete."""
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
# Local folders for files of a store
# ------------------------------------------------------------------------------------------------


class Scratch:
    """A temporary local folder; those of killed processes are removed."""

    def __init__(self) -> None:
        root = cache_dir() / 'scratch'
        root.mkdir(parents=True, exist_ok=True)
        with only_one(root / '.lock'):
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
    """Returns whether the process of a scratch folder has ended, and so released its lock."""
    with (folder / '.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """A context for one process at a time; others wait."""
    with lock.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Mirror:
    """A local folder, `folder`, whose files are copied to a store as they change.

    A file that has become larger was appended to: only the new part is sent, see `append`.
    """

    def __init__(self, to: Path) -> None:
        self._scratch, self._to = Scratch(), to
        self._sent: dict[Path, tuple[int, int]] = {}
        self.folder = self._scratch.folder

    def send(self) -> None:
        """Copies the files that have changed, or their new parts."""
        for file in sorted(self.folder.rglob('*')):
            if file.is_file():
                state = file.stat()
                sent = self._sent.get(file)
                if sent != (now := (state.st_size, state.st_mtime_ns)):
                    to = self._to / file.relative_to(self.folder).as_posix()
                    if sent and sent[0] < state.st_size:
                        append(file, sent[0], state.st_size, to)
                    else:
                        upload(file, to)
                    self._sent[file] = now

    def close(self) -> None:
        """Sends, and removes the folder."""
        self.send()
        self._scratch.close()

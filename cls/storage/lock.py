"""Exclusive use of a run folder: a file lock on a disk, a lease in an object store.

On a disk the kernel releases the lock when a process ends, however it ends. An object store has no
file locks: there `.lock` names the process that uses the folder, which rewrites the file every
RENEW seconds. Another process that finds the file watches it for PATIENCE seconds before it assumes
that the owner was killed; for a process on the same machine, the kernel reports immediately whether
it is alive. Clocks of different machines are not compared.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cls.errors import UserError
from cls.storage import paths

log = logging.getLogger(__name__)

RENEW, PATIENCE, SETTLE = 15.0, 60.0, 2.0  # seconds


def exclusive(workdir: Path) -> contextlib.AbstractContextManager[str]:
    """Returns a context with exclusive use of a run folder; its value is a unique token.

    Raises UserError, on entering, when another process uses it.
    """
    return _lease(workdir) if paths.is_remote(workdir) else _file_lock(workdir)


@contextlib.contextmanager
def _file_lock(workdir: Path) -> Iterator[str]:
    with (workdir / '.lock').open('a') as lock:  # its owner's token is in it
        deadline = time.monotonic() + 2  # an evaluation takes it briefly to write
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f'another process is running in {workdir}; wait, or choose another '
                        '--workdir.'
                    ) from error
            time.sleep(0.1)
        token = secrets.token_hex(8)
        lock.truncate(0)
        lock.write(token)
        lock.flush()
        os.fsync(lock.fileno())
        yield token


@contextlib.contextmanager
def _lease(workdir: Path) -> Iterator[str]:
    """Leases a run folder in an object store for the duration.

    If another process takes it over nevertheless, because this one was cut off from the store for
    longer than PATIENCE, this process ends immediately: two must not write.

    Raises UserError when another process is training in it.
    """
    file, owner = workdir / '.lock', _owner()
    _take(file, owner, workdir)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(file, owner, ended), daemon=True)
    renewing.start()
    try:
        yield owner['id']
    finally:
        ended.set()
        renewing.join()
        if _is_mine(_read(file), owner):
            file.unlink(missing_ok=True)


def _owner() -> dict[str, Any]:
    return {'id': uuid.uuid4().hex, 'host': socket.gethostname(), 'pid': os.getpid()} | _machine()


def _machine() -> dict[str, str]:
    """Returns an id of this boot and PID namespace, so that process ids compare; {} if unknown."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return {'machine': f'{boot} {os.readlink("/proc/self/ns/pid")}'}
    except OSError:
        return {}


def _take(file: Path, mine: dict[str, Any], workdir: Path) -> None:
    current = _read(file)
    if current is None:
        try:
            _write(file, mine, mode='create')  # the store refuses if another was first
        except FileExistsError:
            current = _read(file)
        else:
            return
    if current is not None and not _has_ended(current):
        log.info(
            '%s is held by process %s on %s: waiting %.0f s for a sign of life of it.',
            *(workdir, current.get('pid'), current.get('host'), PATIENCE),
        )
        _watch(file, current, workdir)
    _write(file, mine)
    time.sleep(SETTLE)  # another may take it in the same moment: the last stays
    if not _is_mine(_read(file), mine):
        raise _refusal(workdir, _read(file) or {})


def _watch(file: Path, found: dict[str, Any], workdir: Path) -> None:
    """Waits until a lock has not changed for PATIENCE seconds, or is gone."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(min(1.0, RENEW))
        now = _read(file)
        if now is None:
            return
        if now != found:
            raise _refusal(workdir, now)


def _refusal(workdir: Path, owner: dict[str, Any]) -> UserError:
    return UserError(
        f'another process is training in {workdir} (process {owner.get("pid")} on '
        f'{owner.get("host")}); wait, or choose another --workdir.'
    )


def _has_ended(owner: dict[str, Any]) -> bool:
    """Whether an owner was a process of this machine that has ended."""
    if 'machine' not in owner or owner['machine'] != _machine().get('machine'):
        return False
    return not Path(f'/proc/{owner["pid"]}').exists()


def _renew(file: Path, mine: dict[str, Any], ended: threading.Event) -> None:
    count = 0
    while not ended.wait(RENEW):
        count += 1
        with contextlib.suppress(Exception):  # the store cannot be reached: try again later
            current = _read(file)
            if current is not None and not _is_mine(current, mine):
                message = (
                    f'error: {current.get("host")} has taken over {file.parent}, '
                    f'which this process did not renew for {PATIENCE:.0f} s.'
                )
                print(message, file=sys.stderr, flush=True)
                os._exit(2)
            _write(file, mine | {'count': count})


def _is_mine(found: dict[str, Any] | None, mine: dict[str, Any]) -> bool:
    return found is not None and found.get('id') == mine['id']


def _read(file: Path) -> dict[str, Any] | None:
    try:
        # In one request: between two requests the file may be rewritten.
        owner = paths.parse_json(paths.filesystem(file).cat_file(os.fspath(file)))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _write(file: Path, owner: dict[str, Any], mode: str = 'overwrite') -> None:
    paths.filesystem(file).pipe_file(os.fspath(file), json.dumps(owner).encode(), mode=mode)

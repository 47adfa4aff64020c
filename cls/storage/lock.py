"""Who trains in a run folder of an object store, which knows no locks: `.lock` there names him.

It is written anew every RENEW seconds while he lives. Who finds one watches it for PATIENCE seconds
before he takes it for that of a process that was killed, unless it was a process of this machine,
of which the kernel knows. Clocks of different machines are not compared.
"""

import contextlib
import json
import os
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

RENEW, PATIENCE, SETTLE = 15.0, 60.0, 2.0  # seconds


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[str]:
    """Holds a run folder for the duration; gives what names this holder.

    If another process takes it over nevertheless, because this one was cut off from the store for
    longer than PATIENCE, this process ends at once: two must not write.

    Raises UserError when another process is training in it.
    """
    file, mine = workdir / '.lock', _owner()
    _take(file, mine, workdir)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(file, mine, ended), daemon=True)
    renewing.start()
    try:
        yield mine['id']
    finally:
        ended.set()
        renewing.join()
        if _is_mine(_read(file), mine):
            file.unlink(missing_ok=True)


def _owner() -> dict[str, Any]:
    return {'id': uuid.uuid4().hex, 'host': socket.gethostname(), 'pid': os.getpid()} | _machine()


def _machine() -> dict[str, str]:
    """Returns in what the process's number means something; nothing where that is not told."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return {'machine': f'{boot} {os.readlink("/proc/self/ns/pid")}'}
    except OSError:
        return {}


def _take(file: Path, mine: dict[str, Any], workdir: Path) -> None:
    found = _read(file)
    if found is None:
        try:
            _write(file, mine, mode='create')  # the store refuses if another was first
        except FileExistsError:
            found = _read(file)
        else:
            return
    if found is not None and not _has_ended(found):
        print(
            f'{workdir} is held by process {found.get("pid")} on {found.get("host")}: waiting '
            f'{PATIENCE:.0f} s for a sign of life of it.',
            flush=True,
        )
        _watch(file, found, workdir)
    _write(file, mine)
    time.sleep(SETTLE)  # another may take it in the same moment: the last stays
    if not _is_mine(_read(file), mine):
        raise _refusal(workdir, _read(file) or {})


def _watch(file: Path, found: dict[str, Any], workdir: Path) -> None:
    """Returns when a lock has not changed for PATIENCE seconds, or is gone."""
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
    """Whether an owner was a process of this machine that is no more."""
    if 'machine' not in owner or owner['machine'] != _machine().get('machine'):
        return False
    return not Path(f'/proc/{owner["pid"]}').exists()


def _renew(file: Path, mine: dict[str, Any], ended: threading.Event) -> None:
    count = 0
    while not ended.wait(RENEW):
        count += 1
        with contextlib.suppress(Exception):  # the store cannot be reached: try again later
            found = _read(file)
            if found is not None and not _is_mine(found, mine):
                message = (
                    f'error: {found.get("host")} has taken over {file.parent}, '
                    f'which this process did not renew for {PATIENCE:.0f} s.'
                )
                print(message, file=sys.stderr, flush=True)
                os._exit(2)
            _write(file, mine | {'count': count})


def _is_mine(found: dict[str, Any] | None, mine: dict[str, Any]) -> bool:
    return found is not None and found.get('id') == mine['id']


def _read(file: Path) -> dict[str, Any] | None:
    try:
        # In one request: between two of them the file may be written anew.
        found = paths.parse_json(paths.filesystem(file).cat_file(os.fspath(file)))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, owner: dict[str, Any], mode: str = 'overwrite') -> None:
    paths.filesystem(file).pipe_file(os.fspath(file), json.dumps(owner).encode(), mode=mode)

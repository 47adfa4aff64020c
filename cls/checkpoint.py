"""Checkpoints: state, data position and time account in one folder a step, written by Orbax.

Saving is asynchronous, and a folder gets its name only when it is complete, so a process that is
killed while saving leaves no half checkpoint behind. Orbax does not notice bytes that changed later
(a disk that failed, a copy that was cut off); for that a list of checksums joins each folder.

Orbax writes to folders and to gs://. To other stores (s3://) checkpoints are copied, from a folder
of this machine that it writes to, and fetched into it before they are read: there the checksums are
copied last, and what has none is incomplete.
"""

import contextlib
import functools
import json
import logging
import shutil
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cls import distributed, storage
from cls.errors import UserError
from cls.telemetry import write_json

CHECKSUMS = 'checksums.json'
STORE_SUMS = 'checksums-gs.json'  # the same, as the store tells them
log = logging.getLogger(__name__)

_STALE = 90.0  # seconds for all hosts to see what one of them has moved


class Checkpoints:
    """The checkpoints of a run: a folder with a folder for each step kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Opens the folder (made if need be) to keep the newest `keep` checkpoints in."""
        self._keep, self._scratch = keep, None
        # Where they lie, and where Orbax writes them.
        self._folder = folder if storage.is_remote(folder) else folder.absolute()
        self._local = self._folder
        if not storage.orbax_writes_to(folder):
            self._scratch = storage.Scratch()
            self._local = self._scratch.folder
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1 if self._scratch else keep,
            enable_async_checkpointing=True,
        )
        self._manager = ocp.CheckpointManager(self._local, options=options)
        self._written = threading.Event()
        self._summing: threading.Thread | None = None
        self._problem: Exception | None = None  # of that thread

    def save(self, step: int, state: Any, data: Any, account: dict[str, float]) -> None:
        """Starts writing a checkpoint; returns once `state` may change.

        Raises UserError when the disk has no room for it, before anything is written: writers that
        find out half-way say so in a hundred lines.
        """
        items = {
            'state': ocp.args.StandardSave(state),
            'data': ocp.args.JsonSave(data),
            'account': ocp.args.JsonSave(account),
        }
        self.wait()
        if distributed.is_first() and not storage.is_remote(self._local):
            _check_room(self._local, _bytes(state))
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        if distributed.is_first():
            self._written.clear()
            self._summing = threading.Thread(target=self._complete, args=(step,), daemon=True)
            self._summing.start()

    def restore(self, abstract: Any) -> tuple[Any, Any, dict[str, float]] | None:
        """Returns (state, data, account) of the newest checkpoint that can be read, or None.

        A damaged one is moved to `damaged/`, with a warning, and the one before is tried; with
        several processes the first of them decides for all.

        Args:
          abstract: shapes, dtypes and shardings of the state, as it is to lie on these devices.

        Raises:
          UserError: a checkpoint is sound but holds another state than this run has.
        """
        while True:
            step = distributed.first('checkpoint', self._newest_whole)
            distributed.agree('seen', functools.partial(self._see, step))
            if step is None:
                return None
            restored, problem = None, ''
            try:
                restored = self._read(step, abstract)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                problem = _first_line(error)
            problem = next(filter(None, distributed.gather('restored', problem)), '')
            if not problem:
                return restored
            if distributed.first('sums', _sums_file(self._local / str(step)).exists):
                raise UserError(
                    f'checkpoint {self._folder / str(step)} is whole but holds another '
                    f'state than this run has ({problem}); it may be of another '
                    'version of the code. Choose another --workdir.'
                )
            distributed.first('aside', functools.partial(self._set_aside, step, problem))

    def _newest_whole(self) -> int | None:
        """Returns the newest step whose files are undamaged, and sets aside those after it."""
        for step in self._steps():
            if self._scratch:
                self._fetch(step)
            problem = damage(self._local / str(step))
            if not problem:
                return step
            self._set_aside(step, problem)
        return None

    def _see(self, step: int | None) -> None:
        """Returns when this process too knows of no checkpoint after the first process's newest.

        The first one has set aside what came after. Network file systems show for half a minute
        what another host has moved away.

        Raises UserError when they go on to.
        """
        newest = [] if step is None else [step]
        deadline = time.monotonic() + _STALE
        while (seen := self._steps()[:1]) != newest:
            if time.monotonic() > deadline:
                raise UserError(
                    f'{self._folder}: the newest checkpoint is {step} for process 0 and '
                    f'{seen[0] if seen else None} on {socket.gethostname()}; expected a file '
                    'system that all hosts share.'
                )
            self._manager.reload()
            time.sleep(0.1)

    def _read(self, step: int, abstract: Any) -> tuple[Any, Any, dict[str, float]]:
        items = {
            'state': ocp.args.StandardRestore(abstract),
            'data': ocp.args.JsonRestore(),
            'account': ocp.args.JsonRestore(),
        }
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        return restored['state'], restored['data'], restored['account']

    def _fetch(self, step: int) -> None:
        """Has one checkpoint of the store, and no other, where Orbax reads."""
        for other in self._local.iterdir():
            storage.remove(other)
        with storage.explained(self._folder / str(step)):
            storage.download(self._folder / str(step), self._local / str(step))
        self._manager.reload()

    def _steps(self) -> list[int]:
        found = steps(self._folder) if self._scratch else self._manager.all_steps()
        return sorted(found, reverse=True)

    def newest(self) -> Path | None:
        """Returns the folder of the newest complete checkpoint, or None."""
        self.wait()
        steps = self._steps()
        return self._folder / str(steps[0]) if steps else None

    def wait(self) -> None:
        """Returns when nothing is being written any more."""
        try:
            self._manager.wait_until_finished()
        finally:
            self._written.set()
            if self._summing:
                self._summing.join()
        if self._problem:
            problem, self._problem = self._problem, None
            raise problem

    def close(self) -> None:
        """Finishes writing and lets go of the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()
            if self._scratch:
                self._scratch.close()

    def _set_aside(self, step: int, problem: str) -> None:
        log.warning('checkpoint %s is damaged (%s): trying the one before.', step, problem)
        aside = self._folder / 'damaged'
        storage.make_folder(aside)
        count = len(list(aside.iterdir())) if aside.exists() else 0
        storage.move(self._folder / str(step), aside / f'{step}-{count}')
        if self._scratch:
            storage.remove(self._local / str(step))
        self._manager.reload()

    def _complete(self, step: int) -> None:
        """Waits for a checkpoint to be complete (Orbax has no hook for that) and sums its files.

        Then, where it is to be in a store that Orbax does not write to, it is copied there.
        """
        folder = self._local / str(step)
        pause = 1.0 if storage.is_remote(folder) else 0.02
        while not _is_complete(folder):
            if self._written.wait(pause) and not _is_complete(folder):
                return  # writing failed; `wait` raises what went wrong
        try:
            write_json(_sums_file(folder), checksums(folder))
            if self._scratch:
                self._upload(step)
        except Exception as error:
            self._problem = error

    def _upload(self, step: int) -> None:
        target = self._folder / str(step)
        with storage.explained(target):
            if target.exists():  # cut off when this step was saved before
                storage.remove(target)
            for name in checksums(self._local / str(step)):
                storage.upload(self._local / str(step) / name, target / name)
            storage.upload(self._local / str(step) / CHECKSUMS, target / CHECKSUMS)
            for old in self._steps()[self._keep :]:
                (self._folder / str(old) / CHECKSUMS).unlink()  # from here on it is incomplete
                storage.remove(self._folder / str(old))


def steps(folder: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, which may be missing."""
    found = [int(path.name) for path in folder.glob('*') if path.name.isdigit()]
    return [step for step in found if _is_complete(folder / str(step))]


def _is_complete(folder: Path) -> bool:
    """Whether a checkpoint has been written to its end, when all are called by their step."""
    if not storage.is_remote(folder):
        return folder.exists()  # it got its name in the end
    last = 'commit_success.txt' if storage.orbax_writes_to(folder) else CHECKSUMS
    return (folder / last).exists()


@contextlib.contextmanager
def newest_whole(folder: Path) -> Iterator[Path | None]:
    """Gives the newest checkpoint in a folder of them that is not damaged, or None.

    It is the checkpoint's folder, or a copy of it for the duration where Orbax cannot read. Nothing
    is set aside or made: the folder is another run's.
    """
    with contextlib.ExitStack() as stack:
        for step in sorted(steps(folder), reverse=True):
            found = folder / str(step)
            if not storage.orbax_writes_to(folder):
                copies = stack.enter_context(contextlib.closing(storage.Scratch()))
                found = copies.folder / str(step)
                storage.download(folder / str(step), found)
            if not damage(found):
                yield found
                return
        yield None


def damage(folder: Path) -> str:
    """Says what is wrong with a checkpoint's files, by their checksums; '' if nothing is.

    A process killed right after a checkpoint was completed leaves it without checksums; that is no
    damage.
    """
    sums = _sums_file(folder)
    if not sums.exists():
        return ''
    try:
        expected = json.loads(sums.read_text())
    except ValueError:
        return f'{sums.name} is unreadable'
    found = checksums(folder)
    for name, crc in expected.items():
        if name not in found:
            return f'{name} is missing'
        if found[name] != crc:
            return f'{name} has changed since it was written'
    return ''


def checksums(folder: Path) -> dict[str, Any]:
    """Returns what tells the content of each file of a checkpoint: relative name -> CRC-32.

    In a store it is the sum that the store itself keeps, so nothing is read.
    """
    if storage.is_remote(folder):
        found = {name: storage.fingerprint(entry) for name, entry in storage.find(folder).items()}
    else:
        found = {
            file.relative_to(folder).as_posix(): _crc(file)
            for file in sorted(folder.rglob('*'))
            if file.is_file()
        }
    return {name: found[name] for name in found if name not in (CHECKSUMS, STORE_SUMS)}


def _sums_file(folder: Path) -> Path:
    """Returns the file of the sums; those that a store tells mean nothing in a copy elsewhere."""
    return folder / (STORE_SUMS if storage.is_remote(folder) else CHECKSUMS)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f'no space left in {folder}: a checkpoint takes {needed / 2**20:,.1f} MiB, '
            f'{free / 2**20:,.1f} MiB are free. Make room and run the same command again.'
        )


def _bytes(state: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(state))


def _crc(path: Path) -> int:
    crc = 0
    with path.open('rb') as file:
        while chunk := file.read(2**22):
            crc = zlib.crc32(chunk, crc)
    return crc


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

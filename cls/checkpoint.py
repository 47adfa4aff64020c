"""Checkpoints: state, data position and time account in one folder a step, written by Orbax.

Saving is asynchronous, and a folder gets its name only when it is complete, so a process that is
killed while saving leaves no half checkpoint behind. Orbax does not notice bytes that changed later
(a disk that failed, a copy that was cut off); for that a list of checksums joins each folder.
"""

import functools
import json
import logging
import shutil
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cls import distributed
from cls.errors import UserError
from cls.telemetry import write_json

CHECKSUMS = 'checksums.json'
log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run: a folder with a folder for each step kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Opens the folder (made if need be) to keep the newest `keep` checkpoints in."""
        self._folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=True,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._written = threading.Event()
        self._summing: threading.Thread | None = None

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
        needed, free = _bytes(state), shutil.disk_usage(self._folder).free
        if distributed.is_first() and free < needed:
            raise UserError(
                f'no space left in {self._folder}: a checkpoint takes {needed / 2**20:,.1f} MiB, '
                f'{free / 2**20:,.1f} MiB are free. Make room and run the same command again.'
            )
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        if distributed.is_first():
            self._written.clear()
            self._summing = threading.Thread(target=self._add_checksums, args=(step,), daemon=True)
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
        while (step := distributed.first('checkpoint', self._newest_whole)) is not None:
            if step not in self._steps():
                self._manager.reload()  # the first process has set others aside
            restored, problem = None, ''
            try:
                restored = self._read(step, abstract)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                problem = _first_line(error)
            problem = next(filter(None, distributed.gather('restored', problem)), '')
            if not problem:
                return restored
            if distributed.first('sums', (self._folder / str(step) / CHECKSUMS).exists):
                raise UserError(
                    f'checkpoint {self._folder / str(step)} is whole but holds another '
                    f'state than this run has ({problem}); it may be of another '
                    'version of the code. Choose another --workdir.'
                )
            distributed.first('aside', functools.partial(self._set_aside, step, problem))
            self._manager.reload()
        return None

    def _newest_whole(self) -> int | None:
        """Returns the newest step whose files are undamaged, and sets aside those after it."""
        for step in self._steps():
            problem = damage(self._folder / str(step))
            if not problem:
                return step
            self._set_aside(step, problem)
        return None

    def _read(self, step: int, abstract: Any) -> tuple[Any, Any, dict[str, float]]:
        items = {
            'state': ocp.args.StandardRestore(abstract),
            'data': ocp.args.JsonRestore(),
            'account': ocp.args.JsonRestore(),
        }
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        return restored['state'], restored['data'], restored['account']

    def _steps(self) -> list[int]:
        return sorted(self._manager.all_steps(), reverse=True)

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

    def close(self) -> None:
        """Finishes writing and lets go of the folder."""
        self.wait()
        self._manager.close()

    def _set_aside(self, step: int, problem: str) -> None:
        log.warning('checkpoint %s is damaged (%s): trying the one before.', step, problem)
        aside = self._folder / 'damaged'
        aside.mkdir(exist_ok=True)
        (self._folder / str(step)).rename(aside / f'{step}-{len(list(aside.iterdir()))}')
        self._manager.reload()

    def _add_checksums(self, step: int) -> None:
        """Waits for a checkpoint to be complete (Orbax has no hook for that) and sums its files."""
        folder = self._folder / str(step)
        while not folder.exists():
            if self._written.wait(0.02) and not folder.exists():
                return  # writing failed; `wait` raises what went wrong
        sums = {name: _crc(folder / name) for name in _files(folder)}
        write_json(folder / CHECKSUMS, sums)


def newest_whole(folder: Path) -> Path | None:
    """Returns the newest checkpoint in a folder of them that is not damaged, or None.

    Nothing is set aside or made: the folder is another run's.
    """
    steps = sorted((int(p.name) for p in folder.glob('*') if p.name.isdigit()), reverse=True)
    return next((folder / str(step) for step in steps if not damage(folder / str(step))), None)


def damage(folder: Path) -> str:
    """Says what is wrong with a checkpoint's files, by their checksums; '' if nothing is.

    A process killed right after a checkpoint was completed leaves it without checksums; that is no
    damage.
    """
    sums = folder / CHECKSUMS
    if not sums.exists():
        return ''
    try:
        expected = json.loads(sums.read_text())
    except ValueError:
        return f'{CHECKSUMS} is unreadable'
    for name, crc in expected.items():
        if not (folder / name).exists():
            return f'{name} is missing'
        if _crc(folder / name) != crc:
            return f'{name} has changed since it was written'
    return ''


def _bytes(state: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(state))


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob('*')):
        if path.is_file() and path.name != CHECKSUMS:
            yield path.relative_to(folder).as_posix()


def _crc(path: Path) -> int:
    crc = 0
    with path.open('rb') as file:
        while chunk := file.read(2**22):
            crc = zlib.crc32(chunk, crc)
    return crc


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

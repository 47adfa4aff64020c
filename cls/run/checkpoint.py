"""Checkpoints with Orbax: a folder for each step, with state, data position and time ledger.

Saving is asynchronous. On one process the loop waits only until the state is in host memory, and a
thread hands it to Orbax, whose work in Python grows with the number of arrays; several processes
start Orbax together. Orbax writes under a temporary name; then a copy of the run's config and a
list of checksums are added, and only then is the folder renamed. So a complete checkpoint always
has checksums, and one without them is damaged. Orbax itself does not notice bytes that changed
later (a disk that failed, a truncated copy, another step's folder under this name).

Orbax writes to folders and to gs://. For other stores (s3://) it writes to a folder of this
machine, and the checkpoint is copied from there, and copied back before it is read. Stores rename
by copying, so the checksums are written last there, and a checkpoint without them is incomplete.
"""

import contextlib
import functools
import itertools
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cls.distributed import agreement
from cls.errors import UserError, reason
from cls.run.checkpoint_files import (
    BEST,
    CHECKSUMS,
    RECORD,
    Choose,
    checksums,
    damage,
    newest_step,
    readable,
    steps,
    sums_file,
)
from cls.run.environment import return_memory
from cls.run.telemetry import write_json
from cls.storage import paths

log = logging.getLogger(__name__)

_CHUNK = 2**25  # bytes
# Bytes of a data file, which TensorStore keeps in memory until it is full; its default is 2 GiB.
_FILE = 2**25
_STALE = 90.0  # seconds until all hosts must see that one of them has moved a folder
# Held while Orbax saves: two checkpointers of a process that save at a time mistake each other's
# files (findings/orbax_saves_in_threads.sh).
_SAVING = threading.Lock()


class Checkpoints:
    """The checkpoints of a run that this process writes: a folder for each kept step."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        record: Mapping[str, Any] | None = None,
        completed: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Opens or creates the folder; partial files of killed processes are removed.

        Args:
          folder: the folder of the checkpoints.
          keep: number of checkpoints to keep, the newest ones.
          record: the content of run.json in every checkpoint, see `RunConfig.record`.
          completed: called on the first process, in a thread, when a checkpoint is complete.

        Raises UserError when the folder cannot be made.
        """
        self._keep, self._scratch = keep, None
        self.best: int | None = None  # the step of a checkpoint that is kept too
        self._record, self._completed = record, completed
        # The folder of the checkpoints, and the one that Orbax writes to.
        self._folder = folder if paths.is_remote(folder) else folder.absolute()
        self._local = self._folder
        if not paths.orbax_writes_to(folder):
            self._scratch = paths.Scratch()
            self._local = self._scratch.folder
        agreement.on_first('checkpoints', self._open)
        self._checkpointer = _checkpointer()
        self._finishing: threading.Thread | None = None
        self._problem: Exception | None = None  # of that thread
        self.failed = False  # no further checkpoint can be saved

    def _open(self) -> None:
        with _explained(self._folder):
            paths.make_folder(self._folder)
            if paths.is_remote(self._local):
                return  # incomplete checkpoints are overwritten, or moved away
            self._parent = self._local.parent.stat()
            for entry in self._local.iterdir():
                if entry.name.startswith('.') and _PARTIAL in entry.name:
                    paths.remove(entry) if entry.is_dir() else entry.unlink()

    def save(
        self,
        step: int,
        state: Any,
        data: Any,
        ledger: Mapping[str, Any],
        standing: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts writing a checkpoint; returns as soon as `state` may change.

        Its run.json has `standing`, a JSON value, unless that is None.

        Raises UserError when the checkpoint cannot be written or the disk has no room for it, if
        possible before anything is written: a writer that fails halfway prints a hundred lines.
        Later errors are raised by the next call, or by `wait`.
        """
        self.wait()
        alone = jax.process_count() == 1
        if alone:  # on a CPU views, whose memory the next step does not reuse
            state = jax.device_get(state)
        chunks = jax.tree.map(_in_chunks, state)
        most = None if paths.is_remote(self._local) else _FILE  # Orbax has a number for each store
        items = {
            'state': ocp.args.PyTreeSave(state, chunks, ocdbt_target_data_file_size=most),
            'data': ocp.args.JsonSave(data),
            'account': ocp.args.JsonSave(ledger),
        }
        args = ocp.args.Composite(**items)
        start = functools.partial(self._checkpointer.save, self._staged(step), args, force=True)
        try:
            if agreement.is_main_process() and not paths.is_remote(self._local):
                self._make_again()
                _check_writable(self._local, _bytes(state))
            if not alone:
                with _explained(self._folder / str(step)):
                    start()
        except UserError:
            self.failed = True
            raise
        if agreement.is_main_process():
            to_start = start if alone else None
            self._finishing = threading.Thread(
                target=self._finish, args=(step, to_start, standing), daemon=True
            )
            self._finishing.start()

    def keep_best(self, step: int, content: Mapping[str, Any]) -> None:
        """Keeps the checkpoint of a step, in place of the one that was the best before.

        Waits until it is complete. The file BEST names it before the other one is removed.

        Args:
          step: the step of a checkpoint that is complete, or being written.
          content: the content of BEST.
        """
        self.wait()
        self.best = step
        if agreement.is_main_process():
            with _explained(self._folder / BEST):
                write_json(self._folder / BEST, content)
                self._remove_old()

    def _make_again(self) -> None:
        """Recreates the folder if only it was removed, but not its disk or the run folder."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self._local.parent.stat(), self._parent):
                self._local.mkdir()
                log.warning('%s was removed while the run went on: it is made again.', self._local)

    def restore(self, abstract: Any) -> tuple[Any, Any, dict[str, Any]] | None:
        """Returns (state, data, ledger) of the newest checkpoint that can be read, or None.

        A damaged checkpoint is moved to `damaged/`, with a warning, and the previous one is tried.
        With several processes, process 0 decides for all.

        Args:
          abstract: shapes, dtypes and shardings of the state on these devices.

        Raises:
          UserError: an undamaged checkpoint has another state than this run.
        """
        while True:
            step = agreement.on_first('checkpoint', self._newest_whole)
            agreement.on_all('seen', functools.partial(self._see, step))
            if step is None:
                return None
            restored, problem, other = None, '', ''
            try:
                restored = self._read(step, abstract)
                other = _other_step(restored[0], step)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                problem = _first_line(error)
            problem = next(filter(None, agreement.gather('restored', problem)), '')
            if problem:
                raise _misfit(self._folder / str(step), problem)
            if not other:
                return_memory()
                return restored
            agreement.on_first('aside', functools.partial(self._set_aside, step, other))

    def _newest_whole(self) -> int | None:
        """Returns the newest step with undamaged files; moves later checkpoints away."""
        for step in self._steps():
            if self._scratch:
                self._fetch(step)
            problem = damage(self._local / str(step))
            if not problem:
                return step
            self._set_aside(step, problem)
        return None

    def _see(self, step: int | None) -> None:
        """Waits until this process sees no checkpoint after the newest one of process 0.

        Process 0 has moved the later ones away. Network file systems may show a folder for half a
        minute after another host has moved it.

        Raises UserError if they still show one after _STALE seconds.
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
            time.sleep(0.1)

    def _read(self, step: int, abstract: Any) -> tuple[Any, Any, dict[str, Any]]:
        items = {
            'state': _restore_args(abstract),
            'data': ocp.args.JsonRestore(),
            'account': ocp.args.JsonRestore(),
        }
        args = ocp.args.Composite(**items)
        restored = self._checkpointer.restore(self._local / str(step), args=args)
        return restored['state'], restored['data'], restored['account']

    def _fetch(self, step: int) -> None:
        """Copies only this checkpoint from the store to the folder that Orbax reads."""
        for other in self._local.iterdir():
            paths.remove(other)
        with paths.explained(self._folder / str(step)):
            paths.download(self._folder / str(step), self._local / str(step))

    def _steps(self) -> list[int]:
        return sorted(steps(self._folder), reverse=True)

    def newest(self) -> Path | None:
        """Returns the folder of the newest complete checkpoint, or None."""
        self.wait()
        steps = self._steps()
        return self._folder / str(steps[0]) if steps else None

    def wait(self) -> None:
        """Waits until all checkpoints are written.

        Raises UserError if a checkpoint could not be written.
        """
        if self.failed:
            return  # Orbax's threads may wait for minutes for writes that never end
        if self._finishing:
            self._finishing.join()
            self._finishing = None
        elif not agreement.is_main_process():
            with _explained(self._folder):
                self._checkpointer.wait_until_finished()
        if self._problem:
            self.failed = True
            raise self._problem

    def close(self) -> None:
        """Waits for pending writes, unless one has failed, and releases the folder."""
        try:
            self.wait()
        finally:
            if not self.failed:
                self._checkpointer.close()
            if self._scratch:
                self._scratch.close()

    def _set_aside(self, step: int, problem: str) -> None:
        log.warning('checkpoint %s is damaged (%s): trying the one before.', step, problem)
        _move_aside(self._folder, step)
        if self._scratch:
            paths.remove(self._local / str(step))

    def _staged(self, step: int) -> Path:
        """Returns the temporary folder of a checkpoint that is not complete."""
        remote = paths.is_remote(self._local)
        return self._local / (str(step) if remote else f'.{step}.{_PARTIAL}')

    def _finish(
        self, step: int, start: Callable[[], Any] | None, standing: Mapping[str, Any] | None
    ) -> None:
        """Waits for Orbax, completes the checkpoint, removes old ones, and calls `completed`.

        Calls `start` before, if it is not None.
        """
        try:
            with _explained(self._folder / str(step)):
                with _SAVING:
                    if start:
                        start()
                    self._checkpointer.wait_until_finished()
                self._complete(step, standing)
                self._remove_old()
                self._completed(step)
        except Exception as error:
            self._problem = error

    def _complete(self, step: int, standing: Mapping[str, Any] | None) -> None:
        staged, target = self._staged(step), self._folder / str(step)
        if self._record is not None:
            own = {} if standing is None else {'standing': standing}
            write_json(staged / RECORD, {**self._record, **own})
        sums = {'step': step, 'files': checksums(staged)}
        write_json(sums_file(staged), sums)
        if staged == target:
            return
        if target.exists():  # a folder of this name that is not a checkpoint of this run
            _move_aside(self._folder, step)
        if self._scratch:
            for name in checksums(staged):
                paths.upload(staged / name, target / name)
            paths.upload(staged / CHECKSUMS, target / CHECKSUMS)
            paths.remove(staged)
        else:
            staged.rename(target)

    def _remove_old(self) -> None:
        if self.best is None:
            (self._folder / BEST).unlink(missing_ok=True)  # of a run that had one
        for old in self._steps()[self._keep :]:
            if old == self.best:
                continue
            folder = self._folder / str(old)
            with contextlib.suppress(FileNotFoundError):  # removed by another process
                self._remove(folder)

    def _remove(self, folder: Path) -> None:
        if paths.is_remote(folder):
            sums_file(folder).unlink(missing_ok=True)  # now it counts as incomplete
            paths.remove(folder)
        else:  # renamed first: a half-removed folder must not have the name of a checkpoint
            removed = folder.with_name(f'.{folder.name}.removed.{_PARTIAL}')
            folder.rename(removed)
            paths.remove(removed)


_PARTIAL = 'partial'  # in the names of files and folders that are not complete


def _checkpointer() -> ocp.AsyncCheckpointer:
    # Folders are made before `save` returns: a thread would wait five minutes for a folder that
    # cannot be made, and the process for the thread.
    options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    json = ocp.JsonCheckpointHandler
    handler = ocp.CompositeCheckpointHandler(state=_state_handler(), data=json(), account=json())
    return ocp.AsyncCheckpointer(handler, async_options=options)


def _state_handler() -> ocp.PyTreeCheckpointHandler:
    """Returns Orbax's handler of trees, without its copy of every array on the host."""
    types = ocp.type_handlers
    registry = types.create_type_handler_registry(
        (np.ndarray, types.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, types.get_type_handler(jax.Array)),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _in_chunks(array: Any) -> ocp.SaveArgs:
    """Returns the arguments for saving in chunks; the one being compressed takes memory."""
    return ocp.SaveArgs(chunk_byte_size=_CHUNK)


def _restore_args(abstract: Any) -> ocp.args.PyTreeRestore:
    """Returns the arguments for a state with shapes, dtypes and shardings."""
    args = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(abstract, restore_args=args)


def _move_aside(folder: Path, step: int) -> None:
    aside = folder / 'damaged'
    paths.make_folder(aside)
    names = (aside / f'{step}-{i}' for i in itertools.count())
    paths.move(folder / str(step), next(name for name in names if not name.exists()))


def _other_step(state: Any, step: int) -> str:
    """Returns 'it holds step N' for a state of another step than its checkpoint's name, else ''."""
    own = state.get('step') if isinstance(state, dict) else getattr(state, 'step', None)
    return '' if own is None or int(own) == step else f'it holds step {int(own)}'


def _misfit(checkpoint: Path, problem: str) -> UserError:
    return UserError(
        f'checkpoint {checkpoint} is undamaged but has another state than this run ({problem}); '
        'it may be of another version of the code, or have no classifier (cls import --part '
        'backbone). Choose another --workdir, and to begin with these weights '
        f'--config.init={checkpoint.parent.parent}.'
    )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns errors of Orbax and TensorStore, without a common class, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not path.parent.exists():
            raise _gone(path.parent) from error
        raise UserError(
            f'{path} cannot be written ({reason(error) or _first_line(error)}): make that possible '
            'and run the same command again; it continues from the newest complete checkpoint.'
        ) from error


def _gone(folder: Path) -> UserError:
    return UserError(
        f'{folder} is gone: it was removed, or its disk unmounted, while the run went on. '
        'Bring it back, or choose another --workdir, and run the command again.'
    )


def unread(tree: Any) -> Any:
    """Returns a part of an abstract state as placeholders: `restore_newest` does not read it."""
    return jax.tree.map(lambda _: ocp.PLACEHOLDER, tree)


def restore_newest(folder: Path, abstract: Any, choose: Choose = newest_step) -> Any | None:
    """Returns the state of the newest undamaged checkpoint of a run, or None; changes no file.

    If the run is still active and removes the checkpoint during the read, a newer one is read. With
    several processes, all read the checkpoint that process 0 chooses.

    Args:
      folder: the folder of the checkpoints.
      abstract: shapes, dtypes and shardings of the state on these devices.
      choose: chooses another checkpoint than the newest, see `checkpoint_files.best_or_newest`.

    Raises:
      UserError: an undamaged checkpoint has another state.
    """
    while True:
        step, problems = agreement.on_first('newest', lambda: choose(folder))
        if problems and agreement.is_main_process():
            log.warning('checkpoints of %s: %s.', folder.parent, problems)
        if step is None:
            return None
        checkpoint, state, problem = folder / str(step), None, ''
        try:
            with readable(checkpoint) as local:
                args = _restore_args(abstract)
                reader = ocp.Checkpointer(_state_handler())
                state = reader.restore(_absolute(local) / 'state', args=args)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            problem = _first_line(error)
        problem = problem or _other_step(state, step)
        problem = next(filter(None, agreement.gather('read', problem)), '')
        if not problem:
            return_memory()
            return state
        if agreement.on_first('there', lambda at=checkpoint: not damage(at)):
            raise _misfit(checkpoint, problem)


def _absolute(folder: Path) -> Path:
    return folder if paths.is_remote(folder) else folder.absolute()


def _check_writable(folder: Path, needed: int) -> None:
    """Raises UserError if a folder is gone, cannot be written to, or lacks `needed` bytes."""
    if not folder.is_dir():
        raise _gone(folder)
    with _explained(folder):
        free = shutil.disk_usage(folder).free
        probe = folder / f'.probe.{_PARTIAL}'
        probe.write_bytes(b'')
        probe.unlink()
    if free < needed:
        raise UserError(
            f'no space left in {folder}: a checkpoint takes {needed / 2**20:,.1f} MiB, '
            f'{free / 2**20:,.1f} MiB are free. Make room and run the same command again.'
        )


def _bytes(state: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(state))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

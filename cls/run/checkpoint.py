"""Checkpoints: state, data position and time account in one folder a step, written by Orbax.

Saving is asynchronous. Orbax writes under another name; then a copy of the run's config and a list
of checksums are added, and only then the folder gets its name. So a complete checkpoint always has
checksums, and one without them is damaged: Orbax does not notice bytes that changed later (a disk
that failed, a copy that was cut off, another step's folder under this name).

Orbax writes to folders and to gs://. To other stores (s3://) checkpoints are copied, from a folder
of this machine that it writes to, and fetched into it before they are read. In stores, where
renaming is copying, the checksums are written last, and what has none is incomplete.
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
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cls.distributed import agreement
from cls.errors import UserError, reason
from cls.run.telemetry import write_json
from cls.storage import paths

CHECKSUMS = 'checksums.json'
STORE_SUMS = 'checksums-gs.json'  # the same, as the store tells them
RECORD = 'run.json'  # the config and the classes of the run that wrote the checkpoint
log = logging.getLogger(__name__)

_STALE = 90.0  # seconds for all hosts to see what one of them has moved


class Checkpoints:
    """The checkpoints of a run that this process has claimed: a folder for each step kept."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        record: Mapping[str, Any] | None = None,
        completed: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Opens the folder (made if need be) to keep the newest `keep` checkpoints in.

        What a process that was killed left half-written is removed.

        Args:
          folder: of the checkpoints.
          keep: how many.
          record: as JSON has it, kept in every checkpoint, see `record`.
          completed: called on the first process, in a thread, when a checkpoint is complete.

        Raises UserError when the folder cannot be made.
        """
        self._keep, self._scratch = keep, None
        self._record, self._completed = record, completed
        # Where they lie, and where Orbax writes them.
        self._folder = folder if paths.is_remote(folder) else folder.absolute()
        self._local = self._folder
        if not paths.orbax_writes_to(folder):
            self._scratch = paths.Scratch()
            self._local = self._scratch.folder
        agreement.on_first('checkpoints', self._open)
        self._checkpointer = _checkpointer()
        self._finishing: threading.Thread | None = None
        self._problem: Exception | None = None  # of that thread
        self.failed = False  # nothing can be saved any more

    def _open(self) -> None:
        with _explained(self._folder):
            paths.make_folder(self._folder)
            if paths.is_remote(self._local):
                return  # what is incomplete there is written over, or set aside
            self._parent = self._local.parent.stat()
            for left in self._local.iterdir():
                if left.name.startswith('.') and _LEFT in left.name:
                    paths.remove(left) if left.is_dir() else left.unlink()

    def save(self, step: int, state: Any, data: Any, ledger: dict[str, float]) -> None:
        """Starts writing a checkpoint; returns once `state` may change.

        Raises UserError when it cannot be written or the disk has no room for it, as far as
        possible before anything is: writers that find out half-way say so in a hundred lines. What
        goes wrong later is raised by the next call, or by `wait`.
        """
        items = {
            'state': ocp.args.StandardSave(state),
            'data': ocp.args.JsonSave(data),
            'account': ocp.args.JsonSave(ledger),
        }
        self.wait()
        try:
            if agreement.is_main_process() and not paths.is_remote(self._local):
                self._make_again()
                _check_writable(self._local, _bytes(state))
            with _explained(self._folder / str(step)):
                staged = self._staged(step)
                self._checkpointer.save(staged, args=ocp.args.Composite(**items), force=True)
        except UserError:
            self.failed = True
            raise
        if agreement.is_main_process():
            self._finishing = threading.Thread(target=self._finish, args=(step,), daemon=True)
            self._finishing.start()

    def _make_again(self) -> None:
        """Makes the folder again if it alone was removed, and not its disk or all of the run."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self._local.parent.stat(), self._parent):
                self._local.mkdir()
                log.warning('%s was removed while the run went on: it is made again.', self._local)

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
                return restored
            agreement.on_first('aside', functools.partial(self._set_aside, step, other))

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
            time.sleep(0.1)

    def _read(self, step: int, abstract: Any) -> tuple[Any, Any, dict[str, float]]:
        items = {
            'state': ocp.args.StandardRestore(abstract),
            'data': ocp.args.JsonRestore(),
            'account': ocp.args.JsonRestore(),
        }
        args = ocp.args.Composite(**items)
        restored = self._checkpointer.restore(self._local / str(step), args=args)
        return restored['state'], restored['data'], restored['account']

    def _fetch(self, step: int) -> None:
        """Has one checkpoint of the store, and no other, where Orbax reads."""
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
        """Returns when nothing is being written any more.

        Raises UserError if a checkpoint could not be written.
        """
        if self.failed:
            return  # Orbax's threads may wait for minutes for what does not come
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
        """Finishes writing and lets go of the folder; after a failure, without waiting."""
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
        """Returns where a checkpoint is written before it is complete."""
        remote = paths.is_remote(self._local)
        return self._local / (str(step) if remote else f'.{step}.{_LEFT}')

    def _finish(self, step: int) -> None:
        """Waits for Orbax, completes the checkpoint, removes old ones, and says so."""
        try:
            with _explained(self._folder / str(step)):
                self._checkpointer.wait_until_finished()
                self._complete(step)
                self._remove_old()
                self._completed(step)
        except Exception as error:
            self._problem = error

    def _complete(self, step: int) -> None:
        staged, target = self._staged(step), self._folder / str(step)
        if self._record is not None:
            write_json(staged / RECORD, self._record)
        sums = {'step': step, 'files': checksums(staged)}
        write_json(_sums_file(staged), sums)
        if staged == target:
            return
        if target.exists():  # a folder of this name that is no checkpoint of this run
            _move_aside(self._folder, step)
        if self._scratch:
            for name in checksums(staged):
                paths.upload(staged / name, target / name)
            paths.upload(staged / CHECKSUMS, target / CHECKSUMS)
            paths.remove(staged)
        else:
            staged.rename(target)

    def _remove_old(self) -> None:
        for old in self._steps()[self._keep :]:
            folder = self._folder / str(old)
            with contextlib.suppress(FileNotFoundError):  # somebody else has removed it
                self._remove(folder)

    def _remove(self, folder: Path) -> None:
        if paths.is_remote(folder):
            _sums_file(folder).unlink(missing_ok=True)  # from here on it is incomplete
            paths.remove(folder)
        else:  # in one piece: what is half removed has no checkpoint's name
            left = folder.with_name(f'.{folder.name}.removed.{_LEFT}')
            folder.rename(left)
            paths.remove(left)


_LEFT = 'partial'  # in the names of what a process that was killed leaves behind


def _checkpointer() -> ocp.AsyncCheckpointer:
    # Folders are made before `save` returns: a thread that waits for one that cannot be made waits
    # for five minutes, and the process for it.
    options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), async_options=options)


def _move_aside(folder: Path, step: int) -> None:
    aside = folder / 'damaged'
    paths.make_folder(aside)
    names = (aside / f'{step}-{i}' for i in itertools.count())
    paths.move(folder / str(step), next(name for name in names if not name.exists()))


def _other_step(state: Any, step: int) -> str:
    """Says that a state is of another step than its checkpoint is called by; '' if it is not."""
    found = state.get('step') if isinstance(state, dict) else getattr(state, 'step', None)
    return '' if found is None or int(found) == step else f'it holds step {int(found)}'


def _misfit(checkpoint: Path, problem: str) -> UserError:
    return UserError(
        f'checkpoint {checkpoint} is whole but holds another state than this run has ({problem}); '
        'it may be of another version of the code. Choose another --workdir, and to begin with '
        f'these weights --config.init={checkpoint.parent.parent}.'
    )


@contextlib.contextmanager
def _explained(what: Path) -> Iterator[None]:
    """Turns what Orbax and TensorStore raise, of no common class, into a line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not what.parent.exists():
            raise _gone(what.parent) from error
        raise UserError(
            f'{what} cannot be written ({reason(error) or _first_line(error)}): make that possible '
            'and run the same command again; it continues from the newest complete checkpoint.'
        ) from error


def _gone(folder: Path) -> UserError:
    return UserError(
        f'{folder} is gone: it was removed, or its disk unmounted, while the run went on. '
        'Bring it back, or choose another --workdir, and run the command again.'
    )


def steps(folder: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, which may be missing."""
    found = [path.name for path in folder.glob('[0-9]*') if path.name.isascii()]
    numbers = [int(name) for name in found if name.isdecimal() and name == str(int(name))]
    return [step for step in numbers if _is_complete(folder / str(step))]


def _is_complete(folder: Path) -> bool:
    """Whether a checkpoint has been written to its end, when all are called by their step."""
    if not paths.is_remote(folder):
        return folder.is_dir()  # it got its name in the end
    last = 'commit_success.txt' if paths.orbax_writes_to(folder) else CHECKSUMS
    return (folder / last).exists()


@contextlib.contextmanager
def newest_whole(folder: Path) -> Iterator[Path | None]:
    """Gives the newest checkpoint in a folder of them that is not damaged, or None.

    It is the checkpoint's folder, or a copy of it for the duration where Orbax cannot read. Nothing
    is set aside or made: the folder is another run's. Of damaged ones a warning tells.
    """
    with contextlib.ExitStack() as stack:
        step, problems = newest_step(folder)
        if step is None and problems:
            log.warning('%s has no checkpoint that is whole: %s.', folder, problems)
        elif problems:
            log.warning('taking checkpoint %s of %s: %s.', step, folder, problems)
        yield None if step is None else stack.enter_context(_readable(folder / str(step)))


def newest_step(folder: Path) -> tuple[int | None, str]:
    """Returns (the newest step whose checkpoint is not damaged, None if there is none; what is
    wrong with those after it). Nothing is changed.
    """
    problems = []
    for step in sorted(steps(folder), reverse=True):
        with _readable(folder / str(step)) as found:
            if not (problem := damage(found)):
                return step, ', '.join(problems)
        if _is_complete(folder / str(step)):  # else its run has removed it meanwhile
            problems.append(f'{step} is damaged ({problem})')
    return None, ', '.join(problems)


@contextlib.contextmanager
def _readable(checkpoint: Path) -> Iterator[Path]:
    """Gives a checkpoint where Orbax can read it, if need be a copy for the duration."""
    if paths.orbax_writes_to(checkpoint):
        yield checkpoint
        return
    with contextlib.closing(paths.Scratch()) as copies:
        found = copies.folder / checkpoint.name
        paths.download(checkpoint, found)
        yield found


def restore_newest(folder: Path, abstract: Any) -> Any | None:
    """Returns the state of the newest whole checkpoint of a run, or None; changes nothing there.

    The run may go on meanwhile and remove what is being read; then a newer one is taken. With
    several processes all read the one that the first finds.

    Args:
      folder: of the checkpoints.
      abstract: shapes, dtypes and shardings of the state, as it is to lie on these devices.

    Raises:
      UserError: the checkpoint is sound but holds another state.
    """
    while True:
        step, problems = agreement.on_first('newest', lambda: newest_step(folder))
        if problems and agreement.is_main_process():
            log.warning('checkpoints of %s: %s.', folder.parent, problems)
        if step is None:
            return None
        checkpoint, state, problem = folder / str(step), None, ''
        try:
            with _readable(checkpoint) as found:
                state = ocp.StandardCheckpointer().restore(_absolute(found) / 'state', abstract)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            problem = _first_line(error)
        problem = problem or _other_step(state, step)
        problem = next(filter(None, agreement.gather('read', problem)), '')
        if not problem:
            return state
        if agreement.on_first('there', lambda at=checkpoint: not damage(at)):
            raise _misfit(checkpoint, problem)


def _absolute(folder: Path) -> Path:
    return folder if paths.is_remote(folder) else folder.absolute()


def load_record(folder: Path) -> dict[str, Any]:
    """Returns what the newest checkpoint in a folder of them says of its run; {} if none does.

    It has `config`, the text of config.json, `classes`, the list of classes.json, and `data`, what
    data.json holds.
    """
    for step in sorted(steps(folder), reverse=True):
        checkpoint = folder / str(step)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = (checkpoint / RECORD).read_bytes()
            if paths.is_remote(folder):  # which keeps sums of its own
                return paths.parse_json(content)
            sums = paths.parse_json((checkpoint / CHECKSUMS).read_bytes())['files']
            if sums[RECORD] == zlib.crc32(content):
                return paths.parse_json(content)
    return {}


def damage(folder: Path) -> str:
    """Says what is wrong with a checkpoint's files, by their checksums; '' if nothing is."""
    sums = _sums_file(folder)
    try:
        expected = paths.parse_json(sums.read_bytes())
    except FileNotFoundError:
        return f'{sums.name} is missing'
    except (OSError, ValueError):
        expected = None
    step = None
    if isinstance(expected, dict) and isinstance(expected.get('files'), dict):
        step, expected = expected.get('step'), expected['files']
    # Lists of earlier versions have neither a step nor `files`.
    if not isinstance(expected, dict) or not expected:
        return f'{sums.name} is unreadable'
    if step is not None and folder.name != str(step):
        return f'it holds step {step}'
    try:
        found = checksums(folder)
    except OSError as error:
        return f'{reason(error)}'
    for name, crc in expected.items():
        if name not in found:
            return f'{name} is missing'
        if found[name] != crc:
            return f'{name} has changed since it was written'
    more = [name for name in found if name not in expected and not Path(name).name.startswith('.')]
    return f'{more[0]} is not in {sums.name}' if more else ''


def checksums(folder: Path) -> dict[str, Any]:
    """Returns what tells the content of each file of a checkpoint: relative name -> CRC-32.

    In a store it is the sum that the store itself keeps, so nothing is read.
    """
    if paths.is_remote(folder):
        found = {name: paths.fingerprint(entry) for name, entry in paths.find(folder).items()}
    else:
        found = {
            file.relative_to(folder).as_posix(): _crc(file)
            for file in sorted(folder.rglob('*'))
            if file.is_file()
        }
    return {name: found[name] for name in found if name not in (CHECKSUMS, STORE_SUMS)}


def _sums_file(folder: Path) -> Path:
    """Returns the file of the sums; those that a store tells mean nothing in a copy elsewhere."""
    return folder / (STORE_SUMS if paths.is_remote(folder) else CHECKSUMS)


def _check_writable(folder: Path, needed: int) -> None:
    """Raises UserError if a folder is gone, cannot be written to, or has no room for that."""
    if not folder.is_dir():
        raise _gone(folder)
    with _explained(folder):
        free = shutil.disk_usage(folder).free
        probe = folder / f'.probe.{_LEFT}'
        probe.write_bytes(b'')
        probe.unlink()
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

"""The files of checkpoints: checks for completeness and damage, and records of the run."""

import contextlib
import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cls.errors import reason
from cls.storage import paths

PLACE = 'checkpoints'  # the folder in a run folder
CHECKSUMS = 'checksums.json'
STORE_SUMS = 'checksums-gs.json'  # those that the store itself keeps
BEST = 'best.json'  # in the folder of the checkpoints, see cls.run.best
RECORD = 'run.json'  # the config and the classes of the run that wrote the checkpoint
log = logging.getLogger(__name__)


def is_run(folder: Path) -> bool:
    """Whether a path is a run folder; a snapshot of the Hugging Face Hub has a config.json too."""
    return (folder / 'environment.json').is_file() or (folder / PLACE).is_dir()


def steps(folder: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder; [] if it is missing."""
    names = [path.name for path in folder.glob('[0-9]*') if path.name.isascii()]
    numbers = [int(name) for name in names if name.isdecimal() and name == str(int(name))]
    return [step for step in numbers if is_complete(folder / str(step))]


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint with its final name is complete."""
    if not paths.is_remote(folder):
        return folder.is_dir()  # it is renamed when it is complete
    last = 'commit_success.txt' if paths.orbax_writes_to(folder) else CHECKSUMS
    return (folder / last).exists()


Choose = Callable[[Path], tuple[int | None, str]]  # a folder -> as `newest_step`


@contextlib.contextmanager
def newest_whole(folder: Path, choose: Choose | None = None) -> Iterator[Path | None]:
    """Yields the newest undamaged checkpoint in a folder, or that of `choose`, or None.

    It is the checkpoint's folder, or a temporary copy if Orbax cannot read that storage. The folder
    belongs to another run, so nothing in it is moved or created. Damaged checkpoints are logged.
    """
    with contextlib.ExitStack() as stack:
        step, problems = (choose or newest_step)(folder)
        if step is None and problems:
            log.warning('%s has no undamaged checkpoint: %s.', folder, problems)
        elif problems:
            log.warning('taking checkpoint %s of %s: %s.', step, folder, problems)
        yield None if step is None else stack.enter_context(readable(folder / str(step)))


def newest_step(folder: Path) -> tuple[int | None, str]:
    """Returns (newest step with an undamaged checkpoint or None, damage of later checkpoints).

    Nothing is changed.
    """
    problems = []
    for step in sorted(steps(folder), reverse=True):
        with readable(folder / str(step)) as local:
            if not (problem := damage(local)):
                return step, ', '.join(problems)
        if is_complete(folder / str(step)):  # otherwise its run has removed it meanwhile
            problems.append(f'{step} is damaged ({problem})')
    return None, ', '.join(problems)


def best_or_newest(folder: Path) -> tuple[int | None, str]:
    """Returns `newest_step`, or that of the best checkpoint if the run has an undamaged one."""
    best = load_best(folder)
    if best is None:
        return newest_step(folder)
    step, problem = only(best['step'])(folder)
    if step is not None:
        return step, ''
    step, problems = newest_step(folder)
    return step, ', '.join(filter(None, (f'{problem}, the best one', problems)))


def only(step: int) -> Choose:
    """Returns a function of a folder: (the step or None, the damage of its checkpoint)."""

    def choose(folder: Path) -> tuple[int | None, str]:
        if not is_complete(folder / str(step)):
            return None, f'{step} is missing'
        with readable(folder / str(step)) as local:
            problem = damage(local)
        return (None, f'{step} is damaged ({problem})') if problem else (step, '')

    return choose


def load_best(folder: Path) -> dict[str, Any] | None:
    """Returns {'step', 'metric', 'value'} of the best checkpoint; None if there is none."""
    try:
        best = paths.parse_json((folder / BEST).read_bytes())
        if type(best['step']) is int and isinstance(best['metric'], str):
            return {'step': best['step'], 'metric': best['metric'], 'value': float(best['value'])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        pass
    log.warning('%s cannot be read: the newest checkpoint is taken.', folder / BEST)
    return None


def describe(folder: Path, step: int) -> str:
    """Returns 'step 80'; in a folder with a best checkpoint also the step of that."""
    best = load_best(folder)
    if best is None:
        return f'step {step}'
    by = f'{best["metric"]} ({best["value"]:.6g})'
    if best['step'] != step:
        return f'step {step}, not the best by {by}, of step {best["step"]}'
    return f'step {step}, the best by {by}; the newest is of step {max(steps(folder))}'


@contextlib.contextmanager
def readable(checkpoint: Path) -> Iterator[Path]:
    """Yields a checkpoint that Orbax can read, if necessary a temporary copy."""
    if paths.orbax_writes_to(checkpoint):
        yield checkpoint
        return
    with contextlib.closing(paths.Scratch()) as copies:
        copy = copies.folder / checkpoint.name
        paths.download(checkpoint, copy)
        yield copy


def load_record(folder: Path) -> dict[str, Any]:
    """Returns the record of a run in its newest checkpoint with one; {} if there is none.

    The record has `config`, the text of config.json, `classes`, the list of classes.json, and
    `data`, the content of data.json.
    """
    for step in sorted(steps(folder), reverse=True):
        if record := record_of(folder / str(step)):
            return record
    return {}


def record_of(checkpoint: Path) -> dict[str, Any]:
    """Returns the record of a run in a checkpoint, see `load_record`; {} if it has none.

    Since config.checkpoint.best exists it also has `standing`, see cls.run.best.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = (checkpoint / RECORD).read_bytes()
        if paths.is_remote(checkpoint):  # stores have their own checksums
            return paths.parse_json(content)
        sums = paths.parse_json((checkpoint / CHECKSUMS).read_bytes())['files']
        if sums[RECORD] == zlib.crc32(content):
            return paths.parse_json(content)
    return {}


def damage(folder: Path) -> str:
    """Returns a description of damaged files of a checkpoint, by checksum; '' if all are intact."""
    sums = sums_file(folder)
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
        current = checksums(folder)
    except OSError as error:
        return f'{reason(error)}'
    for name, crc in expected.items():
        if name not in current:
            return f'{name} is missing'
        if current[name] != crc:
            return f'{name} has changed since it was written'
    more = [
        name for name in current if name not in expected and not Path(name).name.startswith('.')
    ]
    return f'{more[0]} is not in {sums.name}' if more else ''


def checksums(folder: Path) -> dict[str, Any]:
    """Returns the checksum of each file of a checkpoint: relative name -> CRC-32.

    For a store these are its own checksums, so no file is read.
    """
    if paths.is_remote(folder):
        sums = {name: paths.fingerprint(entry) for name, entry in paths.find(folder).items()}
    else:
        sums = {
            file.relative_to(folder).as_posix(): _crc(file)
            for file in sorted(folder.rglob('*'))
            if file.is_file()
        }
    return {name: sums[name] for name in sums if name not in (CHECKSUMS, STORE_SUMS)}


def sums_file(folder: Path) -> Path:
    """Returns the file of the checksums; it differs for stores, whose checksums fit no copy."""
    return folder / (STORE_SUMS if paths.is_remote(folder) else CHECKSUMS)


def _crc(path: Path) -> int:
    crc = 0
    with path.open('rb') as file:
        while chunk := file.read(2**22):
            crc = zlib.crc32(chunk, crc)
    return crc

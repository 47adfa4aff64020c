"""The files of checkpoints: checks for completeness and damage, and records of the run."""

import contextlib
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cls.errors import reason
from cls.storage import paths

PLACE = 'checkpoints'  # the folder in a run folder
CHECKSUMS = 'checksums.json'
STORE_SUMS = 'checksums-gs.json'  # those that the store itself keeps
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


@contextlib.contextmanager
def newest_whole(folder: Path) -> Iterator[Path | None]:
    """Yields the newest undamaged checkpoint in a folder, or None.

    It is the checkpoint's folder, or a temporary copy if Orbax cannot read that storage. The folder
    belongs to another run, so nothing in it is moved or created. Damaged checkpoints are logged.
    """
    with contextlib.ExitStack() as stack:
        step, problems = newest_step(folder)
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
        checkpoint = folder / str(step)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = (checkpoint / RECORD).read_bytes()
            if paths.is_remote(folder):  # stores have their own checksums
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

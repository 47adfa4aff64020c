"""What surrounds a run: JAX's settings, the run folder and who may write to it."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging as absl_logging
from ml_collections import ConfigDict

from cls import config as configs
from cls import distributed, lease, storage
from cls.account import FILE
from cls.cache import cache_dir
from cls.errors import UserError
from cls.telemetry import write_json

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


def start() -> None:
    """Switches on JAX's persistent compilation cache, unless JAX_COMPILATION_CACHE_DIR is set."""
    if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        jax.config.update('jax_compilation_cache_dir', str(cache_dir() / 'xla'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    # Orbax logs each save, and what went wrong in its threads, which it raises too.
    absl_logging.set_verbosity(absl_logging.FATAL)


def check_folder(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """Returns the result of a run that has ended in the folder, None if none has.

    Raises UserError when it holds anything but a run of this config, and when it is in a store that
    several processes cannot write a checkpoint to.
    """
    if jax.process_count() > 1 and not storage.orbax_writes_to(workdir):
        raise UserError(
            f'{workdir} cannot take the checkpoints of {jax.process_count()} processes: expected '
            'gs://BUCKET/... or a folder that all of them see.'
        )
    saved = workdir / 'config.json'
    if saved.exists():
        differing = configs.differences(saved.read_text(), configs.to_json(config))
        # A run that died before that may be replaced.
        files = ('metrics.jsonl', 'history.jsonl', 'result.json')
        begun = any((workdir / name).exists() for name in files)
        if differing and begun:
            raise UserError(
                f'{workdir} holds a run with another config: {differing}. '
                'Choose another --workdir, or remove that one.'
            )
    elif workdir.exists() and any(workdir.iterdir()):
        raise UserError(f'{workdir} is not empty and holds no run; choose another --workdir.')
    return load_result(workdir)


@contextlib.contextmanager
def claim(workdir: Path, config: ConfigDict, classes: Sequence[str] = ()) -> Iterator[None]:
    """Makes the run folder this run's for the duration: writes config.json and environment.json.

    With names of classes, in the order of the net's outputs, also classes.json: with them the net
    can be evaluated on data sets that order their classes otherwise or have only some of them.

    Raises UserError when another process is running in it, or the run has begun with other classes.
    """
    with contextlib.ExitStack() as stack:
        token = distributed.first('claim', lambda: _write_down(stack, workdir, config, classes))
        _check_shared(workdir, token)
        yield


def _write_down(
    stack: contextlib.ExitStack, workdir: Path, config: ConfigDict, classes: Sequence[str]
) -> str:
    """Locks the folder until `stack` is closed and writes what it begins with.

    Returns what the lock of a folder holds: no other run's holds the same.
    """
    storage.make_folder(workdir)
    remote = storage.is_remote(workdir)
    token = stack.enter_context(lease.hold(workdir) if remote else _locked(workdir))
    _check_classes(workdir, classes)
    saved, text = workdir / 'config.json', configs.to_json(config)
    if saved.exists() and configs.differences(saved.read_text(), text):
        (workdir / FILE).unlink(missing_ok=True)  # of another run's beginning
    saved.write_text(text)
    write_json(workdir / 'environment.json', environment())
    if classes:
        write_json(workdir / 'classes.json', list(classes))
    else:
        (workdir / 'classes.json').unlink(missing_ok=True)  # of another run's beginning
    return token


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[str]:
    with (workdir / '.lock').open('a') as lock:  # who holds it wrote there
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f'another process is running in {workdir}; wait, or choose another --workdir.'
            ) from error
        token = secrets.token_hex(8)
        lock.truncate(0)
        lock.write(token)
        lock.flush()
        os.fsync(lock.fileno())
        yield token


def _check_shared(workdir: Path, token: str) -> None:
    """Raises UserError on all processes if one does not see what the first has written."""
    if storage.is_remote(workdir):
        return  # a store is the same from everywhere
    deadline = time.monotonic() + 20  # network file systems keep what they knew for some seconds

    def visible() -> bool:
        with contextlib.suppress(OSError):
            return (workdir / '.lock').read_text() == token
        return False

    while not (seen := distributed.is_first() or visible()) and time.monotonic() < deadline:
        time.sleep(0.2)
    answers = distributed.gather('shared', [seen, socket.gethostname()])
    blind = [f'{i} on {host}' for i, (seen, host) in enumerate(answers) if not seen]
    if blind:
        raise UserError(
            f'{workdir} is not the same folder everywhere: process {", ".join(blind[:3])} does '
            f'not see what process 0 on {answers[0][1]} writes there. Choose a --workdir on a file '
            'system that all hosts share.'
        )


def _check_classes(workdir: Path, classes: Sequence[str]) -> None:
    """Raises UserError if a run that has begun would go on with labels of another meaning."""
    known, now = load_classes(workdir), tuple(classes)
    if known and known != now and (workdir / 'metrics.jsonl').exists():
        changed = [name for name in known if name not in now] or [
            name for name in now if name not in known
        ]
        raise UserError(
            f'{workdir} holds a run of {len(known)} classes, and the data set has {len(now)}, in '
            f'another order or of other names ({", ".join(changed[:3]) or known[0]}): expected '
            'those of classes.json. Mend the data set, or choose another --workdir.'
        )


def load_config(workdir: Path, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """Returns the config of a run folder, with fields overridden. UserError if there is none."""
    file = workdir / 'config.json'
    if not file.exists():
        raise UserError(
            f'{workdir} is no run folder, it has no config.json; --config FILE.py begins a run.'
        )
    return configs.from_json(file.read_text(), overrides)


def load_classes(workdir: Path) -> tuple[str, ...]:
    """Returns the names of a run's classes in the order of its net's outputs; () if unknown.

    Raises UserError if classes.json is no list of different names.
    """
    file = workdir / 'classes.json'
    if not file.exists():
        return ()
    try:
        names = json.loads(file.read_text())
    except ValueError:
        names = None
    strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not strings or len(set(names)) < len(names):
        raise UserError(f'{file} is no list of different names, as ["cat", "dog"]: mend or remove.')
    return tuple(names)


def load_result(workdir: Path) -> dict[str, Any] | None:
    """Returns what a finished run wrote, or None."""
    file = workdir / 'result.json'
    return json.loads(file.read_text()) if file.exists() else None


def _commit() -> str | None:
    """Returns the commit of this code, with '-dirty' if it was changed; None where git has none."""
    describe = ['git', '-C', str(Path(__file__).parent), 'describe']
    try:
        found = subprocess.run(
            [*describe, '--always', '--dirty', '--abbrev=40'],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # an image without git
        return None
    return found.stdout.strip() or None


def environment() -> dict[str, Any]:
    """Returns what else a run depends on: versions, code, devices."""
    return {
        'packages': {name: importlib.metadata.version(name) for name in PACKAGES},
        'commit': _commit(),
        'device_kind': jax.devices()[0].device_kind,
        'device_count': jax.device_count(),
        'process_count': jax.process_count(),
    }

"""What surrounds a run: JAX's settings, the run folder and who may write to it."""

import contextlib
import importlib.metadata
import logging
import os
import socket
import subprocess
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging as absl_logging
from ml_collections import ConfigDict

from cls import models
from cls.config import load as configs
from cls.distributed import agreement
from cls.errors import UserError, reason
from cls.run import checkpoint
from cls.run.goodput import FILE
from cls.run.telemetry import write_json
from cls.storage import lock, paths
from cls.storage.cache import cache_dir

log = logging.getLogger(__name__)

# What a run writes into its folder. Of time.json, which a run can do without, a warning tells.
_FILES = ('config.json', 'environment.json', 'classes.json', 'data.json')
_FILES += ('metrics.jsonl', 'history.jsonl', 'result.json', '.lock')
_FOLDERS = ('checkpoints', 'tensorboard')
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


def start() -> None:
    """Switches on JAX's persistent compilation cache, unless JAX_COMPILATION_CACHE_DIR is set.

    Where nothing can be written there a line says so, in place of one by JAX for each program.
    """
    if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        cache = cache_dir() / 'xla'
        jax.config.update('jax_compilation_cache_dir', str(cache))
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=cache) as probe:
                probe.write(bytes(2**20))
        except OSError as error:
            log.warning('compiled programs are not kept in %s: %s.', cache, error.strerror)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    quiet()


def quiet() -> None:
    """Silences what libraries say of errors in their threads: whoever waits for these raises them.

    Else a full disk is one line of ours below hundreds of theirs.
    """
    # Orbax logs each save, and what went wrong in its threads, which it raises too.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    threading.excepthook = _of_thread
    warnings.filterwarnings('ignore', message='Error (reading|writing) persistent compilation')


def _of_thread(args: Any) -> None:
    """Shows an error of a thread of ours which is not about a file, as Python would."""
    ours = any(
        Path(frame.filename).is_relative_to(Path(__file__).parents[1])
        for frame in traceback.extract_tb(args.exc_traceback)
    )
    if ours and not reason(args.exc_value):
        threading.__excepthook__(args)


def finished_result(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """Returns the result of a run that has ended in the folder, None if none has.

    The config that counts is the one in the newest checkpoint; config.json is what people read.

    Raises UserError when it holds anything but a run of this config, and when it is in a store that
    several processes cannot write a checkpoint to.
    """
    if jax.process_count() > 1 and not paths.orbax_writes_to(workdir):
        raise UserError(
            f'{workdir} cannot take the checkpoints of {jax.process_count()} processes: expected '
            'gs://BUCKET/... or a folder that all of them see.'
        )
    _check_is_folder(workdir)
    check_entries(workdir)
    saved, newest = saved_config(workdir), _newest_step(workdir)
    if (workdir / 'config.json').exists() and _config_text(workdir) is None:
        log.warning('%s cannot be read; it will be written anew.', workdir / 'config.json')
    if saved is None:
        if not (workdir / 'config.json').exists() and _others(workdir):
            raise UserError(f'{workdir} is not empty and holds no run; choose another --workdir.')
        if newest is not None:
            log.warning('%s does not say of which config it is: going on with this one.', workdir)
    elif newest == 0:
        _check_start(workdir, saved, config)
    elif _has_begun(workdir, newest):
        if differing := configs.differences(saved, configs.to_json(config)):
            raise UserError(
                f'{workdir} holds a run with another config: {differing}. '
                'Choose another --workdir, or remove that one.'
            )
    result = load_result(workdir)
    if result is None or _is_earlier(result, newest):
        return None
    if saved is None or not (longer := configs.lengths(saved, configs.to_json(config))):
        return result
    if newest is None and 'members' not in config:
        raise UserError(
            f'{workdir} holds a run that has ended, and no checkpoint to go on from to another '
            f'length ({longer}): choose another --workdir.'
        )
    return None


def check_entries(workdir: Path) -> None:
    """Raises UserError if something in a run folder is not of the kind that a run leaves there.

    Who opens a pipe waits for a writer for ever, and a folder in the place of a file would be
    noticed only when the run has come to its end.
    """
    if paths.is_remote(workdir):
        return
    for folder, _, names in os.walk(workdir):
        for name in names:
            path = Path(folder) / name
            if path.exists() and not path.is_file():
                raise UserError(f'{path} is a pipe, socket or device: expected a file. Remove it.')
    for name in _FILES:
        if (workdir / name).is_dir():
            raise UserError(f'{workdir / name} is a folder: expected a file. Move it away.')
    for name in _FOLDERS:
        if (workdir / name).is_file():
            raise UserError(f'{workdir / name} is a file: expected a folder. Move it away.')


def _check_is_folder(workdir: Path) -> None:
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f'--workdir {workdir} is a file: expected a folder, or a name for one.')


def _others(workdir: Path) -> bool:
    """Whether a folder holds more than what a run that was killed at once leaves there."""
    if not workdir.exists():
        return False
    names = {path.name for path in workdir.iterdir()}
    return any(name != '.lock' and not name.endswith('.partial') for name in names)


def _newest_step(workdir: Path) -> int | None:
    return max(checkpoint.steps(workdir / 'checkpoints'), default=None)


def _has_begun(workdir: Path, newest: int | None) -> bool:
    """Whether there is more of a run than its config: one that died before may be replaced."""
    if newest is not None:
        return True
    files = ('metrics.jsonl', 'history.jsonl', 'result.json')
    return any((workdir / name).exists() for name in files)


def _is_earlier(result: Mapping[str, Any], newest: int | None) -> bool:
    """Whether a result is of an earlier end than a run has come to, which was made longer."""
    return newest is not None and result.get('step', newest) < newest


def _check_start(workdir: Path, saved: str, config: ConfigDict) -> None:
    """Raises UserError if what was imported into a folder is not of a config's net."""
    theirs, ours = (paths.parse_json(text)['model'] for text in (saved, configs.to_json(config)))
    differing = [
        f'{name} ({theirs.get(name)!r}, now {ours.get(name)!r})'
        for name in sorted({*theirs, *ours} - {'dtype'})
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        raise UserError(
            f'{workdir} holds weights of another net: model.{", model.".join(differing)}. '
            + _fine_tune(workdir)
        )


def _fine_tune(workdir: Path) -> str:
    return (
        'To fine-tune them, begin a new run: python -m cls.main --config configs/SYSTEM.py:'
        f'folder=DIR,variant=NAME --config.init={workdir} --workdir NEW.'
    )


@contextlib.contextmanager
def open_run(workdir: Path, config: ConfigDict, classes: Sequence[str] = ()) -> Iterator[None]:
    """Makes the run folder this run's for the duration, and checks its classes.

    In a folder without a checkpoint it writes what `settle` does. Where there is one, it is the
    first new checkpoint that settles: until then the folder stays as it was.

    Raises UserError when another process is running in it, it cannot be written to, or what is in
    it is of other classes.
    """
    with contextlib.ExitStack() as stack:
        token = agreement.on_first('open run', lambda: _take(stack, workdir, config, classes))
        _check_shared(workdir, token)
        yield


def _take(
    stack: contextlib.ExitStack, workdir: Path, config: ConfigDict, classes: Sequence[str]
) -> str:
    """Locks the folder until `stack` is closed.

    Returns what the lock of a folder holds: no other run's holds the same.
    """
    try:
        paths.make_folder(workdir)
        token = stack.enter_context(exclusive(workdir))
        _check_classes(workdir, config, classes)
        paths.remove_partial(workdir)
        if _newest_step(workdir) is None:
            settle(workdir, config, classes)
        elif _config_text(workdir) is None:  # damaged, and known from a checkpoint or a --config
            paths.write_whole(workdir / 'config.json', configs.to_json(config).encode())
    except OSError as error:
        raise UserError(
            f'{workdir} cannot be written to ({reason(error) or error}): choose another --workdir.'
        ) from error
    return token


def exclusive(workdir: Path) -> contextlib.AbstractContextManager[str]:
    """Holds a run folder for the duration; gives what names the holder.

    Raises UserError when another process holds it, OSError when it cannot be written to.
    """
    if not paths.is_remote(workdir):
        _check_links(workdir)
    return lock.exclusive(workdir)


def settle(workdir: Path, config: ConfigDict, classes: Sequence[str] = ()) -> None:
    """Writes config.json and environment.json of a run, each where it differs.

    With names of classes, in the order of the net's outputs, also classes.json: with them the net
    can be evaluated on data sets that order their classes otherwise or have only some of them. The
    result of an end that the run has gone beyond becomes result-STEP.json.
    """
    text = configs.to_json(config)
    known = _config_text(workdir)
    if known is not None and _newest_step(workdir) is None and configs.differences(known, text):
        (workdir / FILE).unlink(missing_ok=True)  # of another run's beginning
    result = workdir / 'result.json'
    if result.exists():
        step = (_result_of(result) or {}).get('step', 'earlier')
        kept = paths.unused(workdir / f'result-{step}.json')
        paths.write_whole(kept, result.read_bytes())
        result.unlink()
    paths.write_whole(workdir / 'config.json', text.encode())
    write_json(workdir / 'environment.json', environment(_registered_by(config)))
    if classes:
        write_json(workdir / 'classes.json', list(classes))
    else:
        (workdir / 'classes.json').unlink(missing_ok=True)  # of another run's beginning


def record(config: ConfigDict, classes: Sequence[str] = (), data: Any = None) -> dict[str, Any]:
    """Returns what every checkpoint of a run keeps of it, see `cls.run.checkpoint.load_record`.

    Args:
      config: of the run.
      classes: names, in the order of the network's outputs.
      data: what tells its data from others, see cls.run.same_data; None: unknown.
    """
    return {'config': configs.to_json(config), 'classes': list(classes), 'data': data}


def _check_links(workdir: Path) -> None:
    """Raises UserError if a file of a run folder is a link: who writes the one writes the other.

    A folder may come from anybody. Folders in it that are links, to a larger disk, say, are named.
    """
    for entry in sorted(workdir.iterdir()):
        if not entry.is_symlink():
            continue
        if not entry.is_dir():
            raise UserError(
                f'{entry} is a link to {os.readlink(entry)}, and a run writes files of its own '
                'there: expected a file. Remove the link, or put the file in its place.'
            )
        log.warning('%s is a link: what is written there goes to %s.', entry, entry.resolve())


def _check_shared(workdir: Path, token: str) -> None:
    """Raises UserError on all processes if one does not see what the first has written."""
    if paths.is_remote(workdir):
        return  # a store is the same from everywhere
    deadline = time.monotonic() + 20  # network file systems keep what they knew for some seconds

    def visible() -> bool:
        with contextlib.suppress(OSError):
            return (workdir / '.lock').read_text() == token
        return False

    while not (seen := agreement.is_main_process() or visible()) and time.monotonic() < deadline:
        time.sleep(0.2)
    answers = agreement.gather('shared', [seen, socket.gethostname()])
    blind = [f'{i} on {host}' for i, (seen, host) in enumerate(answers) if not seen]
    if blind:
        raise UserError(
            f'{workdir} is not the same folder everywhere: process {", ".join(blind[:3])} does '
            f'not see what process 0 on {answers[0][1]} writes there. Choose a --workdir on a file '
            'system that all hosts share.'
        )


def _check_classes(workdir: Path, config: ConfigDict, classes: Sequence[str]) -> None:
    """Raises UserError if what is in a folder would be trained on with labels of another meaning.

    Where nothing names the classes of weights that were imported, a line says what is assumed.
    """
    newest = _newest_step(workdir)
    if newest is None and not (workdir / 'metrics.jsonl').exists():
        return
    known, now = load_classes(workdir, default=()), tuple(classes)
    if not known and newest == 0 and now:
        outputs = config.model.get('num_classes', len(now))
        if outputs != len(now):
            raise UserError(
                f'{workdir} holds weights of {outputs} classes, and the data set has {len(now)}. '
                + _fine_tune(workdir)
            )
        log.info(
            '%s has no classes.json: its outputs are taken for %s, ..., %s, in the order of the '
            'data set.',
            *(workdir, now[0], now[-1]),
        )
    if not known or known == now:
        return
    changed = [name for name in known if name not in now] or [
        name for name in now if name not in known
    ]
    raise UserError(
        f'{workdir} holds a run of {len(known)} classes, and the data set has {len(now)}, in '
        f'another order or of other names ({", ".join(changed[:3]) or known[0]}): expected '
        'those of classes.json. '
        + (
            _fine_tune(workdir)
            if newest == 0
            else 'Mend the data set, or choose another --workdir.'
        )
    )


def saved_config(workdir: Path) -> str | None:
    """Returns the JSON text of the config of the run in a folder, None if nothing tells it.

    It is that of the newest checkpoint, or else of config.json.
    """
    return checkpoint.load_record(workdir / 'checkpoints').get('config') or _config_text(workdir)


def _config_text(workdir: Path) -> str | None:
    """Returns what config.json holds, None if there is none or it is no config."""
    try:
        text = (workdir / 'config.json').read_text()
        configs.from_json(text)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, UserError):
        return None
    return text


def load_config(workdir: Path, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """Returns the config of a run folder, with fields overridden.

    Where config.json cannot be read it is that of the newest checkpoint, and a warning says so.

    Raises UserError if there is none.
    """
    check_entries(workdir)
    text = _config_text(workdir)
    kept = checkpoint.load_record(workdir / 'checkpoints').get('config')
    if text is None or (kept and _names(kept) - _names(text)):
        file = workdir / 'config.json'
        text = kept
        if text is None and file.exists():
            raise UserError(
                f'{file} cannot be read, and no checkpoint tells of the config: give --config '
                'and the fields that the run began with.'
            )
        if text is None:
            raise UserError(
                f'{workdir} is no run folder, it has no config.json; --config FILE.py begins a run.'
            )
        log.warning('%s is damaged: taking the config that the checkpoint has.', file)
    _check_models(workdir, paths.parse_json(text))
    return configs.from_json(text, overrides)


def _names(text: str) -> set[str]:
    """Returns the dotted names of what a config's JSON text has."""
    return {name for name, _ in configs.flatten(ConfigDict(paths.parse_json(text)))}


def _check_models(workdir: Path, config: Any) -> None:
    """Raises UserError for a run of a variant that a config file of the user's own registers.

    The file is asked for: nothing that a run folder names is executed.
    """

    def inside(part: Any, key: str) -> Any:
        return part.get(key) if isinstance(part, dict) else None

    members = inside(config, 'members')
    parts = [config, *(members.values() if isinstance(members, dict) else ())]
    names = [inside(inside(part, 'model'), 'name') for part in parts]
    names = [name for name in names if name and isinstance(name, str)]
    if unknown := [name for name in names if not models.is_known(name)]:
        try:
            file = paths.parse_json((workdir / 'environment.json').read_text()).get('registered_by')
        except (OSError, ValueError, AttributeError):
            file = None
        raise UserError(
            f'{workdir} is of {unknown[0]!r}, which cls.models has not: expected also --config '
            f'{file or "FILE.py"}, the config file that registers it.'
        )


def load_classes(workdir: Path, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Returns the names of a run's classes in the order of its net's outputs; () if unknown.

    Where classes.json cannot be read they are those of the newest checkpoint.

    Args:
      workdir: the run folder.
      default: what to return when the names cannot be read anywhere; None: an error.

    Raises UserError if classes.json is no list of different names, and no checkpoint has them.
    """
    file = workdir / 'classes.json'
    try:
        names = paths.parse_json(file.read_text())
        if not _are_names(names):
            names = None
    except FileNotFoundError:
        names = []
    except (OSError, ValueError):
        names = None
    if names:
        return tuple(names)
    kept = checkpoint.load_record(workdir / 'checkpoints').get('classes') or []
    if names is None:
        if kept:
            log.warning('%s cannot be read: taking the names that the checkpoint has.', file)
        elif default is None:
            raise UserError(
                f'{file} is no list of different names, as ["cat", "dog"]: mend or remove.'
            )
        else:
            log.warning('%s cannot be read; it will be written anew.', file)
            return default
    return tuple(kept)


def _are_names(value: Any) -> bool:
    strings = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return strings and len(set(value)) == len(value)


def load_result(workdir: Path) -> dict[str, Any] | None:
    """Returns what a finished run wrote, or None; of a file that cannot be read a warning tells."""
    file = workdir / 'result.json'
    result = _result_of(file)
    if result is None and file.exists():
        log.warning('%s is not that of a run which has ended: it is found out again.', file)
    return result


def _result_of(file: Path) -> dict[str, Any] | None:
    """Returns what a result.json holds, None if it is missing or damaged."""
    try:
        result = paths.parse_json(file.read_text())
    except (OSError, ValueError):
        return None
    return result if _is_result(result) else None


def _is_result(value: Any) -> bool:
    """Whether this is what a training, an ensemble or a search writes at its end."""
    if not isinstance(value, dict) or not isinstance(value.get('seconds'), (int, float)):
        return False
    if 'fitness' in value:
        return {'trial', 'metrics', 'evaluations', 'distinct', 'failed'} <= value.keys()
    sets = [name.removesuffix('top1') for name in value if name.endswith('/top1')]
    parts = [value.get(name + part) for name in sets for part in ('top1', 'top5', 'loss')]
    numbers = [type(part) in (int, float) for part in parts]
    return bool(sets) and all(numbers) and type(value.get('step', 0)) is int


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


def _registered_by(config: ConfigDict) -> str:
    name = config.get('model', {}).get('name')
    return models.origin(name) if name else ''


def environment(registered_by: str = '') -> dict[str, Any]:
    """Returns what else a run depends on: versions, code, devices.

    Args:
      registered_by: the config file of the user's own that registers the run's model, if one does.
    """
    own = {'registered_by': registered_by} if registered_by else {}
    return own | {
        'packages': {name: importlib.metadata.version(name) for name in PACKAGES},
        'commit': _commit(),
        'device_kind': jax.devices()[0].device_kind,
        'device_count': jax.device_count(),
        'process_count': jax.process_count(),
    }

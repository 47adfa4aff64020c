"""The run folder: its checks, its small files, and the lock of the process that writes to it."""

import contextlib
import dataclasses
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from cls.distributed import agreement
from cls.errors import UserError, reason
from cls.run import checkpoint_files
from cls.run.environment import environment
from cls.run.goodput import FILE
from cls.run.telemetry import write_json
from cls.storage import lock, paths

log = logging.getLogger(__name__)

# The files of a run folder. time.json is not among them: a run does not need it.
_FILES = ('config.json', 'environment.json', 'classes.json', 'data.json', 'weights.json')
_FILES += ('metrics.jsonl', 'history.jsonl', 'result.json', 'loggers.json', '.lock')
_FOLDERS = ('checkpoints', 'tensorboard', 'metrics')
_GROUPS = ('data', 'members', 'model', 'optim', 'schedule', 'search')  # fields of a config


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The config of a run, for its run folder; see cls.config.runs.

    Attributes:
      text: the config in JSON.
      differences: text of a saved config -> its differences that change the training, '' if none.
      lengths: text of a saved config -> its differences in the length of the training, '' if none.
      registered_by: the user's own config file that registers a name of the config, '' if none.
    """

    text: str
    differences: Callable[[str], str]
    lengths: Callable[[str], str]
    registered_by: str = ''

    @property
    def fields(self) -> dict[str, Any]:
        """The fields, as parsed JSON."""
        return paths.parse_json(self.text)

    def record(self, classes: Sequence[str] = (), data: Any = None) -> dict[str, Any]:
        """Returns the content of run.json in every checkpoint, see `checkpoint.load_record`.

        Args:
          classes: names, in the order of the network's outputs.
          data: the identity of the data, see cls.run.same_data; None: unknown.
        """
        return {'config': self.text, 'classes': list(classes), 'data': data}


def finished_result(workdir: Path, config: RunConfig) -> dict[str, Any] | None:
    """Returns the result of a finished run in the folder, None if there is none.

    The config of the newest checkpoint is compared; config.json is only for readers.

    Raises UserError if the folder has anything other than a run of this config, or is in a store to
    which several processes cannot write a checkpoint.
    """
    if jax.process_count() > 1 and not paths.orbax_writes_to(workdir):
        raise UserError(
            f'{workdir} cannot take the checkpoints of {jax.process_count()} processes: expected '
            'gs://BUCKET/... or a folder that they all share.'
        )
    _check_is_folder(workdir)
    check_entries(workdir)
    saved, newest = saved_config(workdir), _newest_step(workdir)
    if (workdir / 'config.json').exists() and config_text(workdir) is None:
        log.warning('%s cannot be read; it will be written again.', workdir / 'config.json')
    if saved is None:
        if not (workdir / 'config.json').exists() and _others(workdir):
            raise UserError(f'{workdir} is not empty and holds no run; choose another --workdir.')
        if newest is not None:
            log.warning('%s has no config that can be read: going on with this one.', workdir)
    elif newest == 0:
        _check_start(workdir, saved, config)
    elif _has_begun(workdir, newest):
        if differing := config.differences(saved):
            raise UserError(
                f'{workdir} holds a run with another config: {differing}. '
                'Choose another --workdir, or remove that one.'
            )
    result = load_result(workdir)
    if result is None or _is_earlier(result, newest):
        return None
    if saved is None or not (longer := config.lengths(saved)):
        return result
    if newest is None and 'members' not in config.fields:
        raise UserError(
            f'{workdir} holds a run that has ended, and no checkpoint to go on from to another '
            f'length ({longer}): choose another --workdir.'
        )
    return None


def check_entries(workdir: Path) -> None:
    """Raises UserError for entries of a run folder that a run would not write.

    Opening a pipe would wait for a writer forever, and a folder in place of a file would be noticed
    only at the end of the run.
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
    """Whether a folder has other files than those of a run that was killed at its start."""
    if not workdir.exists():
        return False
    names = {path.name for path in workdir.iterdir()}
    return any(name != '.lock' and not name.endswith('.partial') for name in names)


def _newest_step(workdir: Path) -> int | None:
    return max(checkpoint_files.steps(workdir / 'checkpoints'), default=None)


def _has_begun(workdir: Path, newest: int | None) -> bool:
    """Whether a run has more than a config; such a run is not replaced by another."""
    if newest is not None:
        return True
    files = ('metrics.jsonl', 'history.jsonl', 'result.json')
    return any((workdir / name).exists() for name in files)


def _is_earlier(result: Mapping[str, Any], newest: int | None) -> bool:
    """Whether a result is from before the run was extended."""
    return newest is not None and result.get('step', newest) < newest


def _check_start(workdir: Path, saved: str, config: RunConfig) -> None:
    """Raises UserError if imported weights are of another model than that of the config."""
    theirs, ours = paths.parse_json(saved)['model'], config.fields['model']
    differing = [
        f'{name} ({theirs.get(name)!r}, now {ours.get(name)!r})'
        for name in sorted({*theirs, *ours} - {'dtype'})
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        raise UserError(
            f'{workdir} holds weights of another network: model.{", model.".join(differing)}. '
            + _fine_tune(workdir)
        )


def _fine_tune(workdir: Path) -> str:
    return (
        'To fine-tune them, begin a new run: python -m cls.main --config configs/SYSTEM.py:'
        f'folder=DIR,variant=NAME --config.init={workdir} --workdir NEW.'
    )


@contextlib.contextmanager
def open_run(workdir: Path, config: RunConfig, classes: Sequence[str] = ()) -> Iterator[None]:
    """Locks the run folder for the duration, and checks its classes.

    In a folder without a checkpoint it writes the files of `settle`. In a folder with one, they are
    written with the first new checkpoint, and until then the folder is not changed.

    Raises UserError if another process uses the folder, it cannot be written to, or its checkpoints
    are of other classes.
    """
    with contextlib.ExitStack() as stack:
        token = agreement.on_first('open run', lambda: _take(stack, workdir, config, classes))
        _check_shared(workdir, token)
        yield


def _take(
    stack: contextlib.ExitStack, workdir: Path, config: RunConfig, classes: Sequence[str]
) -> str:
    """Locks the folder until `stack` is closed; returns the lock's unique token."""
    try:
        paths.make_folder(workdir)
        token = stack.enter_context(exclusive(workdir))
        _check_classes(workdir, config, classes)
        paths.remove_partial(workdir)
        if _newest_step(workdir) is None:
            settle(workdir, config, classes)
        elif config_text(workdir) is None:  # damaged; the config is a checkpoint's or --config's
            paths.write_whole(workdir / 'config.json', config.text.encode())
    except OSError as error:
        raise UserError(
            f'{workdir} cannot be written to ({reason(error) or error}): choose another --workdir.'
        ) from error
    return token


def exclusive(workdir: Path) -> contextlib.AbstractContextManager[str]:
    """Returns a context with exclusive use of a run folder, see cls.storage.lock.

    Raises UserError when another process uses it, OSError when it cannot be written to.
    """
    if not paths.is_remote(workdir):
        _check_links(workdir)
    return lock.exclusive(workdir)


def settle(workdir: Path, config: RunConfig, classes: Sequence[str] = ()) -> None:
    """Writes config.json and environment.json of a run, where they differ.

    Class names, in the order of the model's outputs, are written to classes.json: with it the model
    can be evaluated on data sets with another order of classes, or with only some of them. The
    result of a run that was extended becomes result-STEP.json.
    """
    saved = config_text(workdir)
    if saved is not None and _newest_step(workdir) is None and config.differences(saved):
        (workdir / FILE).unlink(missing_ok=True)  # of another run's beginning
    result = workdir / 'result.json'
    if result.exists():
        step = (_result_of(result) or {}).get('step', 'earlier')
        kept = paths.unused(workdir / f'result-{step}.json')
        paths.write_whole(kept, result.read_bytes())
        result.unlink()
    paths.write_whole(workdir / 'config.json', config.text.encode())
    write_json(workdir / 'environment.json', environment(config.registered_by))
    if classes:
        write_json(workdir / 'classes.json', list(classes))
    else:
        (workdir / 'classes.json').unlink(missing_ok=True)  # of another run's beginning


def _check_links(workdir: Path) -> None:
    """Raises UserError if a file of a run folder is a link: a run would write to its target.

    A run folder may be untrusted. Links to folders, perhaps on a larger disk, are logged.
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
    """Raises UserError on all processes if one does not see the lock of process 0."""
    if paths.is_remote(workdir):
        return  # a store is the same for all hosts
    deadline = time.monotonic() + 20  # network file systems cache files for some seconds

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


def _check_classes(workdir: Path, config: RunConfig, classes: Sequence[str]) -> None:
    """Raises UserError if the weights in a folder would be trained with labels of other classes.

    If the classes of imported weights are unknown, the assumption is logged.
    """
    newest = _newest_step(workdir)
    if newest is None and not (workdir / 'metrics.jsonl').exists():
        return
    before, now = load_classes(workdir, default=()), tuple(classes)
    if not before and newest == 0 and now:
        outputs = config.fields['model'].get('num_classes', len(now))
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
    if not before or before == now:
        return
    known, wanted = set(before), set(now)
    changed = [name for name in before if name not in wanted] or [
        name for name in now if name not in known
    ]
    raise UserError(
        f'{workdir} holds a run of {len(before)} classes, and the data set has {len(now)}, in '
        f'another order or of other names ({", ".join(changed[:3]) or before[0]}): expected '
        'those of classes.json. '
        + (_fine_tune(workdir) if newest == 0 else 'Fix the data set, or choose another --workdir.')
    )


def saved_config(workdir: Path) -> str | None:
    """Returns the JSON text of the config of the run in a folder, None if there is none.

    It is taken from the newest checkpoint, or else from config.json.
    """
    return kept_config(workdir) or config_text(workdir)


def kept_config(workdir: Path) -> str | None:
    """Returns the JSON text of the config in the newest checkpoint that has one, or None."""
    return checkpoint_files.load_record(workdir / 'checkpoints').get('config')


def config_text(workdir: Path) -> str | None:
    """Returns the content of config.json, None if it is missing or not a config."""
    try:
        text = (workdir / 'config.json').read_text()
        return text if _is_config(paths.parse_json(text)) else None
    except (OSError, ValueError):
        return None


def _is_config(value: Any) -> bool:
    """Whether a value is a config: groups of fields, in an ensemble one for each member."""
    if not isinstance(value, dict) or any('.' in key for key in value):
        return False
    groups = [part for name, part in value.items() if name in _GROUPS or isinstance(part, dict)]
    return all(map(_is_config, groups))


def registered_by(workdir: Path) -> str:
    """Returns the config file that registered a name of a run, '' if it is not recorded."""
    try:
        return paths.parse_json((workdir / 'environment.json').read_text())['registered_by']
    except (OSError, ValueError, TypeError, KeyError):
        return ''


def load_classes(workdir: Path, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Returns the names of a run's classes in the order of its model's outputs; () if unknown.

    If classes.json cannot be read, the names in the newest checkpoint are returned.

    Args:
      workdir: the run folder.
      default: the result when the names cannot be read anywhere; None: an error.

    Raises UserError if classes.json is not a list of different names, and no checkpoint has them.
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
    kept = checkpoint_files.load_record(workdir / 'checkpoints').get('classes') or []
    if names is None:
        if kept:
            log.warning('%s cannot be read: taking the names of the checkpoint.', file)
        elif default is None:
            raise UserError(
                f'{file} is not a list of different names, as ["cat", "dog"]: fix or remove.'
            )
        else:
            log.warning('%s cannot be read; it will be written again.', file)
            return default
    return tuple(kept)


def _are_names(value: Any) -> bool:
    strings = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return strings and len(set(value)) == len(value)


def load_result(workdir: Path) -> dict[str, Any] | None:
    """Returns the result of a finished run, or None; a file that cannot be read is logged."""
    file = workdir / 'result.json'
    result = _result_of(file)
    if result is None and file.exists():
        log.warning('%s is not the result of a finished run: it is computed again.', file)
    return result


def _result_of(file: Path) -> dict[str, Any] | None:
    """Returns the content of a result.json, None if it is missing or damaged."""
    try:
        result = paths.parse_json(file.read_text())
    except (OSError, ValueError):
        return None
    return result if _is_result(result) else None


def _is_result(value: Any) -> bool:
    """Whether a value is the result of a training, an ensemble or a search."""
    if not isinstance(value, dict) or not isinstance(value.get('seconds'), (int, float)):
        return False
    if 'fitness' in value:
        return {'trial', 'metrics', 'evaluations', 'distinct', 'failed'} <= value.keys()
    sets = [name.removesuffix('top1') for name in value if name.endswith('/top1')]
    parts = [value.get(name + part) for name in sets for part in ('top1', 'top5', 'loss')]
    numbers = [type(part) in (int, float) for part in parts]
    return bool(sets) and all(numbers) and type(value.get('step', 0)) is int

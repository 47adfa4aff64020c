"""Readers of run folders and of sweep folders, for comparisons and reports.

A sweep folder has a run folder for each trial, and

  sweep.json     the trials: their names, overridden fields and seeds, see `SweepData`
  outcomes.json  the trials that failed or were pruned, and why
  logs/NAME.txt  the output of each trial
"""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cls.config import load as configs
from cls.errors import UserError
from cls.run import goodput, workdir
from cls.storage import paths

log = logging.getLogger(__name__)

SWEEP, OUTCOMES, LOGS = 'sweep.json', 'outcomes.json', 'logs'
# The states of a trial.
FINISHED, FAILED, PRUNED, OPEN = 'finished', 'failed', 'pruned', 'open'


@dataclasses.dataclass(frozen=True)
class RunData:
    """The files of a run folder, as far as the run has come.

    Attributes:
      folder: the run folder.
      config: the content of config.json, with defaults for fields that it lacks.
      result: the content of result.json; None for a run that is not finished.
      metrics: the lines of metrics.jsonl, each with its 'step'.
      classes: the names of the classes in the order of the outputs; () if unknown.
      time: the content of time.json: seconds by bucket, see cls.run.goodput; {} if unknown.
    """

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None
    metrics: tuple[Mapping[str, Any], ...]
    classes: tuple[str, ...]
    time: Mapping[str, float]

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config.get('seed', 0)

    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """The config by dotted names, as {'optim.lr': 0.1, ...}."""
        return dict(flatten(self.config))

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Returns the (step, value) pairs of a metric, as 'train/loss' or 'test/top1'.

        Values that were not finite, null in the file, are left out.
        """
        rows = ((row['step'], row.get(metric)) for row in self.metrics)
        return [(step, value) for step, value in rows if isinstance(value, (int, float))]

    @property
    def curves(self) -> list[str]:
        """The names of all metrics, in the order of their first lines."""
        return list(dict.fromkeys(name for row in self.metrics for name in row if name != 'step'))


@dataclasses.dataclass(frozen=True)
class TrialData:
    """A trial of a sweep.

    Attributes:
      name: the name of its folder, as 'optim.lr=0.1,seed=0'.
      overrides: its fields and their text, as on the command line, with the seed.
      state: FINISHED, FAILED, PRUNED (stopped early by a search), or OPEN (not finished yet).
      message: for a failed or a pruned trial the reason, in a line.
      run: its run folder; None if it has not begun.
    """

    name: str
    overrides: Mapping[str, str]
    state: str
    message: str
    run: RunData | None


@dataclasses.dataclass(frozen=True)
class SweepData:
    """A sweep folder.

    Attributes:
      folder: the sweep folder.
      spec: the content of sweep.json.
      trials: all trials in their order.
    """

    folder: Path
    spec: Mapping[str, Any]
    trials: tuple[TrialData, ...]

    @property
    def runs(self) -> tuple[RunData, ...]:
        """The finished runs."""
        return tuple(t.run for t in self.trials if t.run and t.state == FINISHED)

    @property
    def varied(self) -> tuple[str, ...]:
        """The fields that differ between trials, without the seed."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.overrides)
        return tuple(name for name in names if name != 'seed')

    @property
    def failures(self) -> tuple[TrialData, ...]:
        """The failed trials."""
        return tuple(trial for trial in self.trials if trial.state == FAILED)

    def log(self, trial: TrialData) -> Path:
        """Returns the file with the output of a trial."""
        return self.folder / LOGS / f'{trial.name}.txt'

    def count(self, state: str) -> int:
        """Returns the number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / SWEEP).is_file()


def read(folder: Path) -> RunData | SweepData:
    """Reads a run folder or a sweep folder. Raises UserError for any other folder."""
    return read_sweep(folder) if is_sweep(folder) else read_run(folder)


def runs_of(folders: Sequence[Path]) -> list[RunData]:
    """Returns the runs of run folders and the finished ones of sweep folders, each folder once.

    Raises UserError for any other folder, and for a sweep without a finished run.
    """
    return runs_in(map(read, folders))


def runs_in(folders: Iterable[RunData | SweepData]) -> list[RunData]:
    """Returns as `runs_of`, for folders that were read."""
    result: dict[Path, RunData] = {}
    for data in folders:
        if isinstance(data, SweepData) and not data.runs:
            raise UserError(
                f'no trial of {data.folder} is finished yet ({data.count(FAILED)} failed): '
                'expected one or more. The same `cls sweep` continues it.'
            )
        for run in data.runs if isinstance(data, SweepData) else (data,):
            result.setdefault(run.folder, run)
    return list(result.values())


def read_run(folder: Path) -> RunData:
    """Reads a run folder. Raises UserError if it is none, or if its config cannot be read."""
    if not folder.is_dir():
        raise UserError(f'there is no folder {folder}: expected a run folder or a sweep folder.')
    workdir.check_entries(folder)
    text = workdir.saved_config(folder)
    if text is None:
        raise UserError(
            f'{folder} is not a run folder (no config.json that can be read), and no sweep folder '
            f'(no {SWEEP}): expected one of the two.'
        )
    return RunData(
        folder,
        configs.from_json(text).to_dict(),
        workdir.load_result(folder),
        tuple(metrics_rows(folder)),
        workdir.load_classes(folder, default=()),
        goodput.load_record(folder / goodput.FILE),
    )


def read_sweep(folder: Path) -> SweepData:
    """Reads a sweep folder. Raises UserError if it is none."""
    spec, outcomes = load_json(folder / SWEEP), load_json(folder / OUTCOMES)
    trials = spec.get('trials') if isinstance(spec, dict) else None
    if not isinstance(trials, list) or not all(map(_is_trial, trials)):
        raise UserError(
            f'{folder} is not a sweep folder: expected {SWEEP} in it, as `cls sweep` writes it.'
        )
    known = outcomes if isinstance(outcomes, dict) else {}
    return SweepData(
        folder, spec, tuple(_trial(folder, trial, known.get(trial['name'], {})) for trial in trials)
    )


def _is_trial(value: Any) -> bool:
    """Whether a value describes a trial; its name is that of a folder in the sweep folder."""
    name = value.get('name') if isinstance(value, dict) else None
    overrides = value.get('overrides') if isinstance(value, dict) else None
    fits = isinstance(name, str) and Path(name).name == name and not name.startswith('.')
    return fits and isinstance(overrides, dict)


def _trial(folder: Path, trial: Mapping[str, Any], outcome: Mapping[str, str]) -> TrialData:
    name, run = trial['name'], None
    if (folder / name / 'config.json').is_file():
        try:
            run = read_run(folder / name)
        except UserError as error:  # one broken folder does not hide the others
            log.warning('%s', error)
    state = FINISHED if run and run.result else outcome.get('state', OPEN)
    message = '' if state == FINISHED else outcome.get('message', '')
    return TrialData(name, trial['overrides'], state, message, run)


def load_json(file: Path) -> Any:
    """Returns the content of a JSON file; None if there is none that can be read."""
    try:
        return paths.parse_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def flatten(config: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of every field of a config in plain dicts, sorted by name."""
    for key in sorted(config):
        if isinstance(config[key], Mapping):
            yield from flatten(config[key], f'{prefix}{key}.')
        else:
            yield prefix + key, config[key]


def metrics_rows(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yields the lines of metrics.jsonl; one that cannot be read, as a half-written last one, not.

    The number of lines that are left out is logged.
    """
    file = folder / 'metrics.jsonl'
    try:
        content = file.read_bytes().splitlines()
    except FileNotFoundError:
        return
    damaged = 0
    for number, line in enumerate(content, start=1):
        try:
            row = paths.parse_json(line)
            if type(row['step']) is not int:
                raise TypeError
        except (ValueError, KeyError, TypeError):
            damaged += number < len(content)  # the last may be half written
            continue
        yield row
    if damaged:
        log.warning('%s: %s lines cannot be read and are left out.', file, damaged)

"""The job of `cls sweep`: every trial of a plan as an ordinary run, whatever is killed meanwhile.

The sweep folder is locked by this process, and each run folder by its training. sweep.json is
written before the first trial starts. A trial is finished when its run folder has a result; the
same command again starts the others; they continue from their checkpoints.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cls import signals
from cls.config import load as configs
from cls.errors import UserError, reason
from cls.evaluate import summary
from cls.experiments import pools, trial
from cls.experiments.check import Checked, check, digest
from cls.experiments.plan import Pairs, Plan, Trial
from cls.experiments.runs import FAILED, FINISHED, LOGS, OPEN, OUTCOMES, PRUNED, SWEEP, load_json
from cls.run import workdir
from cls.run.telemetry import write_json
from cls.storage import lock, paths

log = logging.getLogger(__name__)

PAUSE = 0.2  # seconds between looks at the running trials
TRIES = 3  # processes of a trial that may be killed until it counts as failed
_STOPPED = 'stopped before the end'


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a trial: its state, and for a state other than FINISHED the reason."""

    state: str
    message: str = ''
    result: Mapping[str, Any] | None = None


class Source(Protocol):
    """The origin of trials: the grid, or a search that learns from the ends of earlier ones."""

    def take(self) -> Sequence[Trial]:
        """Returns the next trial to run, or several for one process; () if there is none."""
        ...

    def prunes(self, trial: Trial) -> bool:
        """Whether to stop a running trial now."""
        ...

    def settle(self, trial: Trial, outcome: Outcome) -> Outcome:
        """Notes the end of a trial; returns the outcome to record."""
        ...


class Grid:
    """The trials of a grid that have no result yet, one by one or in groups."""

    def __init__(self, groups: Sequence[Sequence[Trial]]) -> None:
        self._waiting = list(groups)

    def take(self) -> Sequence[Trial]:
        return self._waiting.pop(0) if self._waiting else ()

    def prunes(self, trial: Trial) -> bool:
        return False

    def settle(self, trial: Trial, outcome: Outcome) -> Outcome:
        return outcome


@dataclasses.dataclass
class Sweep:
    """A sweep folder that this process has locked.

    Attributes:
      folder: the sweep folder.
      plan: its plan.
      trials: its trials in their order.
      digests: the description of each trial's config, by name, see `check.digest`.
    """

    folder: Path
    plan: Plan
    trials: list[Trial]
    digests: dict[str, str]

    def write(self) -> None:
        """Writes sweep.json."""
        listed = [
            {'name': t.name, 'overrides': dict(t.overrides), 'digest': self.digests[t.name]}
            for t in self.trials
        ]
        write_json(self.folder / SWEEP, self.plan.to_json() | {'trials': listed})

    def finished(self, trial: Trial) -> Outcome | None:
        """Returns the outcome of a run folder with a result; None without one.

        A result of another config, of a recipe that was changed meanwhile, is a failure.
        """
        folder = self.folder / trial.name
        if not folder.is_dir() or (result := workdir.load_result(folder)) is None:
            return None
        text = workdir.saved_config(folder)
        if text and digest(configs.from_json(text)) != self.digests[trial.name]:
            return Outcome(FAILED, 'the recipe was changed while the sweep ran')
        return Outcome(FINISHED, result=result)

    def work(self, *trials: Trial) -> pools.Work:
        """Returns the command of a trial, or of trials that differ in the seed."""
        first = trials[0]
        overrides = [f'--config.{k}={v}' for k, v in self.plan.all_overrides(first)]
        arguments = ['--config', self.plan.config, *overrides]
        for one in trials:
            arguments += ['--workdir', str(self.folder / one.name)]
        module = 'cls.main'
        if len(trials) > 1:
            module = signals.TOGETHER
            arguments += ['--seeds', ','.join(str(one.seed) for one in trials)]
        log_file = self.folder / LOGS / f'{first.name}.txt'
        return pools.Work(first.name, trial.command(module, arguments), log_file)

    def record(self, trial: Trial, outcome: Outcome) -> None:
        """Writes the outcome of a trial; a finished one needs no entry."""
        outcomes = load_json(self.folder / OUTCOMES) or {}
        before = dict(outcomes)
        outcomes.pop(trial.name, None)
        if outcome.state not in (FINISHED, OPEN):
            outcomes[trial.name] = {'state': outcome.state, 'message': outcome.message}
        if outcomes != before:
            write_json(self.folder / OUTCOMES, outcomes)


def saved_plan(folder: Path) -> Plan:
    """Returns the plan of a sweep folder. Raises UserError if it has none."""
    saved = load_json(folder / SWEEP)
    if saved is None:
        raise UserError(f'{folder} holds no sweep to continue: give --config, --grid, --seeds.')
    return Plan.from_json(saved)


def open_plan(
    folder: Path, plan: Plan, configs_: Sequence[Pairs], together: bool = False
) -> list[Checked]:
    """Returns the descriptions of configs, after all checks of a sweep.

    Args:
      folder: the sweep folder.
      plan: the plan of the sweep.
      configs_: the overridden fields of each config.
      together: whether one process trains all seeds of a config.

    Raises UserError, before anything is written, for mistakes in any config and for a folder with
    other content.
    """
    if paths.is_remote(folder):
        raise UserError(f'{folder} is in a store: expected a folder, which all trials share.')
    if folder.exists() and not folder.is_dir():
        raise UserError(f'--workdir {folder} is a file: expected a folder, or a name for one.')
    saved = load_json(folder / SWEEP)
    if saved is None and folder.is_dir() and any(p.name != '.lock' for p in folder.iterdir()):
        raise UserError(f'{folder} is not empty and holds no sweep; choose another --workdir.')
    if saved and (why := _conflict(Plan.from_json(saved), plan)):
        raise UserError(f'{folder} holds another sweep ({why}); choose another --workdir.')
    return check(plan.config, configs_, together)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a sweep folder and locks it. Raises UserError when another process uses it."""
    try:
        paths.make_folder(folder)
        with lock.exclusive(folder):
            yield
    except OSError as error:
        why = reason(error)
        if not why:
            raise
        raise UserError(f'{folder} cannot be used ({why}): choose another --workdir.') from error


def _conflict(former: Plan, plan: Plan) -> str:
    """Returns why a sweep cannot continue as another one, '' if it can: it may have more trials."""
    if former.config != plan.config:
        return f'config {former.config}, now {plan.config}'
    if former.search != plan.search:
        return f'search {dict(former.search)}, now {dict(plan.search)}'
    now = {trial.name for trial in plan.trials()}
    gone = [trial.name for trial in former.trials() if trial.name not in now]
    return f'the trial {gone[0]} is not among those of this command' if gone else ''


def check_digests(folder: Path, sweep: Sweep) -> None:
    """Raises UserError if the config of a saved trial has changed."""
    saved = load_json(folder / SWEEP) or {}
    for entry in saved.get('trials', ()):
        now = sweep.digests.get(entry['name'])
        if now is not None and now != entry['digest']:
            raise UserError(
                f'the config of {entry["name"]} in {folder} was another one when the sweep began '
                '(fields, or the recipe itself): take it back, or choose another --workdir.'
            )


def refuse_equal(trials: Sequence[Trial], checked: Sequence[Checked]) -> None:
    """Raises UserError for two trials with the same config, as of the values 0.1 and 1e-1."""
    seen: dict[str, Trial] = {}
    for one, description in zip(trials, checked, strict=True):
        other = seen.setdefault(description.digest, one)
        if other is not one:
            raise UserError(
                f'the trials {other.name} and {one.name} have the same config: expected different '
                'values in --grid.'
            )


def run_grid(folder: Path, plan: Plan, pool: pools.PoolSpec, together: bool = False) -> None:
    """Runs all trials of a grid that have no result.

    Args:
      folder: the sweep folder.
      plan: its plan.
      pool: the processes that run the trials.
      together: whether one process trains all seeds of a config that have not begun.

    Raises UserError for mistakes, before anything is written, and for a folder in use.
    """
    pool.check()
    trials = plan.trials()
    checked = open_plan(folder, plan, [plan.all_overrides(t) for t in trials], together)
    refuse_equal(trials, checked)
    digests = {t.name: c.digest for t, c in zip(trials, checked, strict=True)}
    sweep = Sweep(folder, plan, trials, digests)
    check_digests(folder, sweep)
    with locked(folder):
        check_digests(folder, sweep)  # another process may have written it meanwhile
        sweep.write()
        done = {t.name: outcome for t in trials if (outcome := sweep.finished(t))}
        log.info('%s trials in %s, %s of them finished.', len(trials), folder, len(done))
        waiting = [t for t in trials if t.name not in done]
        for t in trials:
            sweep.record(t, done.get(t.name, Outcome(OPEN)))
        groups = in_groups(folder, waiting) if together else [(t,) for t in waiting]
        run(sweep, Grid(groups), pool, len(trials), len(done))


def in_groups(folder: Path, trials: Sequence[Trial]) -> list[tuple[Trial, ...]]:
    """Returns trials in groups of one config, except those that continue from a checkpoint."""
    groups: dict[Any, list[Trial]] = {}
    for one in trials:
        begun = any((folder / one.name / 'checkpoints').glob('[0-9]*'))
        groups.setdefault(one.name if begun else one.point, []).append(one)
    return [tuple(group) for group in groups.values()]


@dataclasses.dataclass(frozen=True)
class _Waiting:
    trials: Sequence[Trial]
    began: float  # of its first process, of time.monotonic
    tries: int = 1  # the number of its next process


@dataclasses.dataclass
class _Running:
    item: _Waiting
    handle: pools.Handle
    pruned: bool = False

    @property
    def trials(self) -> Sequence[Trial]:
        return self.item.trials


def run(
    sweep: Sweep, source: Source, pool: pools.PoolSpec, total: int, done: int = 0
) -> dict[str, Outcome]:
    """Runs the trials of a source to their ends; returns their outcomes by name.

    Args:
      sweep: the sweep folder.
      source: the trials.
      pool: the processes that run them.
      total: the number of trials, for the lines about them.
      done: the number of trials that ended earlier.
    """
    (sweep.folder / LOGS).mkdir(exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    running: list[_Running] = []
    killed: list[_Waiting] = []
    with pools.started(pool, sweep.folder) as start:
        while True:
            while len(running) < pool.jobs and (item := _following(killed, source)):
                _link_logs(sweep, item.trials)
                running.append(_Running(item, start(sweep.work(*item.trials))))
            if not running:
                return outcomes
            time.sleep(PAUSE)
            for item in tuple(running):
                if not item.pruned and source.prunes(item.trials[0]):
                    item.pruned = True
                    item.handle.stop()
                code = item.handle.code()
                if code is None:
                    continue
                running.remove(item)
                again = _again(item, code, sweep)
                killed += [_Waiting((t,), item.item.began, item.item.tries + 1) for t in again]
                for one in item.trials:
                    if one in again:
                        continue
                    outcome = source.settle(one, _outcome(sweep, item, one, code))
                    sweep.record(one, outcome)
                    outcomes[one.name] = outcome
                    _report(item, one, outcome, f'{done + len(outcomes)}/{total}')


def _following(killed: list[_Waiting], source: Source) -> _Waiting | None:
    if killed:
        return killed.pop(0)
    trials = source.take()
    return _Waiting(trials, time.monotonic()) if trials else None


def _link_logs(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Links the log of a process to the name of each of its trials."""
    for one in trials[1:]:
        link = sweep.work(one).log
        link.unlink(missing_ok=True)
        link.symlink_to(sweep.work(*trials).log.name)


def _again(item: _Running, code: int, sweep: Sweep) -> list[Trial]:
    """Returns the trials to start again after their process was killed.

    They continue from their checkpoints, each in a process of its own.
    """
    if code >= 0 or item.item.tries == TRIES or item.pruned:
        return []
    log.info('%s was killed by signal %s: it is continued.', item.trials[0].name, -code)
    return [one for one in item.trials if not sweep.finished(one)]


def _outcome(sweep: Sweep, item: _Running, one: Trial, code: int) -> Outcome:
    """Returns the outcome of a trial whose process has ended."""
    if outcome := sweep.finished(one):
        return outcome
    if item.pruned:
        return Outcome(PRUNED)
    if code < 0:
        return Outcome(FAILED, f'{TRIES} processes of it were killed, the last by signal {-code}')
    if code == 0:
        return Outcome(FAILED, _STOPPED)
    line = _last_line(sweep.work(*item.trials).log, f'seed {one.seed}: ')
    return Outcome(FAILED, f'{line} (exit code {code})')


def _last_line(file: Path, marked: str) -> str:
    """Returns the last line of a trial's output; one with a mark is preferred."""
    try:
        lines = file.read_text(errors='replace').split('\n')
    except OSError:
        lines = []
    lines = [line.strip() for line in lines if line.strip()]
    own = [line for line in lines if marked in line]
    return (own or lines or ['no output'])[-1]


def _report(item: _Running, one: Trial, outcome: Outcome, number: str) -> None:
    seconds = time.monotonic() - item.item.began
    text = outcome.message
    if outcome.state == FINISHED and outcome.result:
        text = summary(dict(outcome.result))
    elif outcome.state == FAILED:
        text = f'failed: {outcome.message}'
    print(f'[{number}] {one.name}: {text} ({seconds:.0f} s)', flush=True)

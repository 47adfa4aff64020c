"""A search over fields with Optuna: its points, their pruning, and its continuation.

The study is `study.sqlite3` in the sweep folder; its trials are those of the sweep, by number. Each
evaluation of a run is reported as 1, 2, 3, ...: pruners count resources in reports, and with the
numbers of training steps Hyperband would stop trials at the first one.

A sampler draws the point of trial n with a seed made from the seed of the sweep and n. With one
seed for the whole study, a continued study would draw its first points again.
"""

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from cls.config import load as configs
from cls.errors import UserError, require
from cls.experiments import pools
from cls.experiments.check import digest
from cls.experiments.plan import SEED, Pairs, Plan, Trial, readable, split_values
from cls.experiments.runs import FAILED, FINISHED, OUTCOMES, PRUNED, load_json, metrics_rows
from cls.experiments.sweep import Outcome, Sweep, check_digests, locked, open_plan, run
from cls.run import metric_names

log = logging.getLogger(__name__)

FILE, NAME = 'study.sqlite3', 'sweep'
PRUNERS = ('hyperband', 'median', 'none')
_KINDS = ('uniform', 'log', 'int', 'choice')
_STATES = {'FAIL': FAILED, 'PRUNED': PRUNED}  # of Optuna, in the words of a sweep
_EXPECTED = 'uniform:LOW:HIGH, log:LOW:HIGH, int:LOW:HIGH or choice:A,B,...'


@dataclasses.dataclass(frozen=True)
class Range:
    """The values of a searched field.

    Attributes:
      kind: 'uniform', 'log' (the logarithm is uniform), 'int' or 'choice'.
      low, high: the ends, both included; 0 for a choice.
      choices: the texts of a choice.
    """

    kind: str
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()

    @classmethod
    def parse(cls, name: str, text: str) -> Self:
        """Returns the range of 'log:0.01:1'. Raises UserError for other text."""
        kind, _, rest = text.partition(':')
        mistake = UserError(f'--search {name}={text}: expected {_EXPECTED}.')
        if kind not in _KINDS or not rest:
            raise mistake
        if kind == 'choice':
            choices = split_values(rest)
            if len(set(choices)) < 2 or len(set(choices)) < len(choices):
                raise UserError(f'--search {name}={text}: expected two or more different values.')
            return cls(kind, choices=choices)
        try:
            low, high = map(int if kind == 'int' else float, rest.split(':'))
        except ValueError:
            raise mistake from None
        if not -math.inf < low < high < math.inf or (kind == 'log' and low <= 0):
            above = ' above 0' if kind == 'log' else ''
            raise UserError(f'--search {name}={text}: expected LOW{above}, and a larger HIGH.')
        return cls(kind, low, high)

    def ends(self) -> tuple[str, ...]:
        """Returns the texts of the ends, or of all choices."""
        return self.choices or (repr(self.low), repr(self.high))

    def distribution(self) -> Any:
        """Returns the distribution of Optuna."""
        from optuna import distributions  # pyright: ignore[reportMissingImports]

        if self.kind == 'choice':
            return distributions.CategoricalDistribution(self.choices)
        if self.kind == 'int':
            return distributions.IntDistribution(int(self.low), int(self.high))
        return distributions.FloatDistribution(self.low, self.high, log=self.kind == 'log')


def ranges(plan: Plan) -> dict[str, Range]:
    """Returns the searched fields of a plan. Raises UserError for mistakes in them."""
    return {name: Range.parse(name, text) for name, text in plan.search}


def corners(plan: Plan) -> list[Pairs]:
    """Returns overrides with each end and choice of each range once: configs to check."""
    fields = ranges(plan)
    first = {name: one.ends()[0] for name, one in fields.items()}
    points = [first, *(first | {n: end} for n, one in fields.items() for end in one.ends()[1:])]
    return [(*plan.fields, *point.items(), (SEED, str(plan.seeds[0]))) for point in points]


def check_flags(plan: Plan) -> None:
    """Raises UserError if Optuna is not installed, and for mistakes in the flags."""
    require('optuna', 'sweep')
    ranges(plan)
    if plan.count < 1:
        raise UserError(f'--trials is {plan.count}: expected 1 or more, the trials of the search.')
    if plan.pruner not in PRUNERS:
        raise UserError(f'--pruner is {plan.pruner!r}; known: {", ".join(PRUNERS)}.')


def run_search(folder: Path, plan: Plan, pool: pools.PoolSpec) -> None:
    """Runs a search to its number of trials, or continues it.

    Raises UserError for mistakes, before anything is written, and for a folder in use.
    """
    pool.check()
    check_flags(plan)
    checked = open_plan(folder, plan, corners(plan))
    sweep = Sweep(folder, plan, [], {})
    with locked(folder):
        source = Study(sweep, checked[0].split_kind, checked[0].evaluations, pool.jobs)
        check_digests(folder, sweep)
        sweep.write()
        if checked[0].split_kind == 'test':
            log.info('Points are chosen on the test split: their results on it are too good.')
        if checked[0].evaluations == 1 and plan.pruner != 'none':
            log.info(
                'No trial is pruned: config.eval.every is empty, with one evaluation at the end.'
            )
        run(sweep, source, pool, plan.count, source.ended)


class Study:
    """The trials of a search, as a source of `sweep.run`."""

    def __init__(self, sweep: Sweep, kind: str, evaluations: int, jobs: int) -> None:
        """Opens the study of a sweep folder, and adds its trials to the sweep.

        Args:
          sweep: the sweep folder.
          kind: the kind of the split of the evaluations.
          evaluations: of a run.
          jobs: trials at the same time.
        """
        import optuna  # pyright: ignore[reportMissingImports]

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._sweep, self._kind, self._jobs = optuna, sweep, kind, jobs
        self._fields = ranges(sweep.plan)
        self._study = optuna.create_study(
            storage=f'sqlite:///{sweep.folder / FILE}',
            study_name=NAME,
            direction='maximize',
            pruner=make_pruner(optuna, sweep.plan.pruner, evaluations),
            load_if_exists=True,
        )
        frozen = self._study.get_trials(deepcopy=False)
        self._numbers: dict[str, int] = {}
        self._open: list[Trial] = []
        self._seen: dict[str, int] = {}
        outcomes = load_json(sweep.folder / OUTCOMES) or {}
        for one in frozen:
            if one.state.is_finished():
                self._recorded(self._add(one.number, one.params), one.state.name, outcomes)
                continue
            # Of a killed process; a point that was not drawn completely is drawn now.
            self._seed(one.number)
            trial = self._add(one.number, self._drawn(one._trial_id))
            if outcome := sweep.finished(trial):  # its end is only not noted yet
                sweep.record(trial, self.settle(trial, outcome))
            else:
                self._open.append(trial)

    def _recorded(self, trial: Trial, state: str, outcomes: Mapping[str, Any]) -> None:
        """Writes the outcome of a trial whose end the study has noted, if the sweep has not."""
        message = 'see its output' if state == 'FAIL' else ''
        if state in _STATES and trial.name not in outcomes:
            self._sweep.record(trial, Outcome(_STATES[state], message))

    @property
    def ended(self) -> int:
        """The number of trials that have ended."""
        return len(self._numbers) - len(self._open)

    def take(self) -> Sequence[Trial]:
        if self._open:
            return (self._open.pop(0),)
        number = len(self._numbers)
        if number >= self._sweep.plan.count:
            return ()
        self._seed(number)
        drawn = self._study.ask({n: one.distribution() for n, one in self._fields.items()})
        trial = self._add(drawn.number, drawn.params)
        self._sweep.write()
        return (trial,)

    def _seed(self, number: int) -> None:
        """Gives the study the sampler that draws the point of a trial."""
        seed = np.random.SeedSequence([self._sweep.plan.seeds[0], number]).generate_state(1)[0]
        self._study.sampler = self._optuna.samplers.TPESampler(
            seed=int(seed), constant_liar=self._jobs > 1
        )

    def _drawn(self, trial_id: int) -> Mapping[str, Any]:
        """Returns the point of a trial that has begun."""
        trial = self._optuna.trial.Trial(self._study, trial_id)
        for name, one in self._fields.items():
            if one.kind == 'choice':
                trial.suggest_categorical(name, one.choices)
            elif one.kind == 'int':
                trial.suggest_int(name, int(one.low), int(one.high))
            else:
                trial.suggest_float(name, one.low, one.high, log=one.kind == 'log')
        return trial.params

    def _add(self, number: int, params: Mapping[str, Any]) -> Trial:
        """Adds a trial to the sweep; returns it."""
        trial = make_trial(number, params, self._sweep.plan.seeds[0])
        self._numbers[trial.name] = number
        self._sweep.trials.append(trial)
        plan = self._sweep.plan
        config = configs.load(plan.config, plan.all_overrides(trial))
        self._sweep.digests[trial.name] = digest(config)
        return trial

    def _trial(self, trial: Trial) -> Any:
        frozen = self._study.get_trials(deepcopy=False)[self._numbers[trial.name]]
        return self._optuna.trial.Trial(self._study, frozen._trial_id)

    def prunes(self, trial: Trial) -> bool:
        if self._sweep.plan.pruner == 'none':
            return False
        values = evaluations(self._sweep.folder / trial.name, self._kind)
        if len(values) <= self._seen.get(trial.name, 0):
            return False
        self._seen[trial.name] = len(values)
        handle = self._trial(trial)
        reported = self._study.get_trials(deepcopy=False)[handle.number].intermediate_values
        for number, value in enumerate(values, start=1):
            if number not in reported:
                handle.report(value, number)
                if handle.should_prune():
                    return True
        return handle.should_prune()

    def settle(self, trial: Trial, outcome: Outcome) -> Outcome:
        states, number = self._optuna.trial.TrialState, self._numbers[trial.name]
        value = score(outcome.result or {}, self._kind)
        if outcome.state == FINISHED and value is not None:
            self._study.tell(number, value)
        elif outcome.state == PRUNED:
            self._study.tell(number, state=states.PRUNED)
            count = self._seen.get(trial.name, 0)
            outcome = dataclasses.replace(outcome, message=f'pruned after {count} evaluations')
        elif outcome.state == FAILED:
            self._study.tell(number, state=states.FAIL)
        return outcome


def make_trial(number: int, params: Mapping[str, Any], seed: int) -> Trial:
    """Returns the trial of a point."""
    texts = [(name, v if isinstance(v, str) else repr(v)) for name, v in sorted(params.items())]
    shown = [(n, f'{v:.4g}' if isinstance(v, float) else str(v)) for n, v in sorted(params.items())]
    return Trial(readable((('trial', f'{number:03d}'), *shown)), (*texts, (SEED, str(seed))))


def make_pruner(optuna: Any, name: str, evaluations: int) -> Any:
    """Returns a pruner of Optuna for runs with a number of evaluations."""
    if name == 'median':
        return optuna.pruners.MedianPruner()
    if name == 'hyperband' and evaluations > 1:
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=evaluations)
    return optuna.pruners.NopPruner()


def score(values: Mapping[str, Any], kind: str) -> float | None:
    """Returns the accuracy that a search maximizes, of the average of weights if there is one.

    It is top-1, or mAP of images with several labels.

    Args:
      values: the result of a run, or a line of its metrics.
      kind: of the split of the evaluations.
    """
    main = metric_names.main(values)
    names = [f'{metric_names.weights_name(kind, ema=ema)}/{main}' for ema in (True, False)]
    found = (values.get(name) for name in names)
    return next((value for value in found if isinstance(value, (int, float))), None)


def evaluations(folder: Path, kind: str) -> list[float]:
    """Returns the accuracies of the evaluations that a run folder has."""
    rows: Iterator[Mapping[str, Any]] = metrics_rows(folder)
    scores: Sequence[float | None] = [score(row, kind) for row in rows]
    return [value for value in scores if value is not None]

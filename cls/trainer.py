"""The training loop of a run: steps, logging, evaluations and checkpoints.

May import: displays, distributed, errors, evaluate, feed, run, setup, steps.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cls import displays
from cls.distributed import agreement
from cls.distributed.preemption import Preempted, Preemption
from cls.errors import UserError
from cls.evaluate import EvalStep, evaluate_state, in_words, summary
from cls.feed import Fed, Pace, Resident, Streamed, TrainBatches, feed
from cls.run import metric_names
from cls.run.best import Selection, Standing
from cls.run.checkpoint import Checkpoints, restore_newest, unread
from cls.run.checkpoint_files import only
from cls.run.goodput import BUCKETS, TimeLedger, goodput
from cls.run.interval import Interval
from cls.run.telemetry import NEVER, Metrics, Profile, Progress, write_json
from cls.setup import Setup, abstract_state
from cls.steps import plateau
from cls.steps import sharding as meshes
from cls.steps.phases import Phase
from cls.steps.state import TrainState

MOST_PENDING = 64  # calls whose metrics stay on the devices

TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]
HistogramStep = Callable[[TrainState, Any], Any]
# The steps of one call: (number of the first, count, their metrics, scalars or (K,)).
Steps = tuple[int, int, dict[str, jax.Array]]


def lazy_jit(compile_step: Callable[[Any, Any], EvalStep], ledger: TimeLedger) -> EvalStep:
    """Returns an evaluation step for batches of one shape, compiled at its first call.

    The compilation counts as 'compile' time.
    """
    compiled = None

    def step(variables: Any, batch: Any) -> dict[str, jax.Array]:
        nonlocal compiled
        if compiled is None:
            with ledger.spend('compile'):
                compiled = compile_step(variables, batch)
        return compiled(variables, batch)

    return step


@dataclasses.dataclass
class Trainer:
    """The training loop, and the parts of a run that it uses."""

    setup: Setup
    ledger: TimeLedger
    checkpoints: Checkpoints
    metrics: Metrics | None  # of the first process only
    progress: Progress
    preemption: Preemption
    eval_step: EvalStep
    workdir: Path
    selection: Selection = dataclasses.field(default_factory=Selection)
    interval: Interval = dataclasses.field(default_factory=Interval)
    histograms: Callable[[Phase], HistogramStep] | None = None  # compiles; see config.log
    broken: bool = False  # whether the state is invalid and must not be saved
    stopped: str = ''  # the reason to end before the last step
    evaluated: tuple[int, dict[str, float]] = (-1, {})  # the step of the last evaluation, metrics
    together: int = 1  # runs that this process trains, of several seeds

    def run(
        self, train_steps: Mapping[Phase, TrainStep], state: TrainState, iterator: TrainBatches
    ) -> dict[str, Any] | None:
        """Trains, evaluates and closes; returns the result, or None when stopped before the end."""
        try:
            state = self.loop(train_steps, state, iterator)
            complete = self.stopped or int(state.step) == self.setup.total_steps
            finished = complete and not self.preemption.due()
            result = self.finish(state) if finished else None
            self.progress.note(f'time: {self.ledger}')
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is reported
                iterator.close()
            self.close(failed=True)
            raise
        iterator.close()
        self.close()
        return result

    def loop(
        self, train_steps: Mapping[Phase, TrainStep], state: TrainState, iterator: TrainBatches
    ) -> TrainState:
        """Trains to the last step, or until stopped; saves and returns the state."""
        # Closed before the iterator, whatever happens: its thread reads from the iterator.
        with closing(feed(iterator, self.setup)) as batches:
            return self._loop(train_steps, state, batches, iterator.get_state())

    def _loop(
        self,
        train_steps: Mapping[Phase, TrainStep],
        state: TrainState,
        batches: Streamed | Resident,
        data_state: Any,
    ) -> TrainState:
        setup, spec = self.setup, self.setup.run
        profile = Profile(spec.profile if agreement.is_main_process() else NEVER, self.workdir)
        pending: list[Steps] = []  # metrics that are not fetched yet
        self._start_clock()
        self.preemption.guard(True)
        step = self._last_saved = int(state.step)
        self._scale = plateau.scale(state.opt_state)
        self._before_plateau: tuple[int, Any] = (-1, None)  # the step of an evaluation, state
        histogram_step = functools.cache(self._histogram_step)
        pace = Pace(batches.most, lambda: time.perf_counter() - self._idle_seconds())

        try:
            while step < setup.total_steps and not self.preemption.due():
                if self._time_is_over(step):
                    break
                # Before the next step and after the save: a run that continues here evaluates too.
                due = spec.eval_every and step and step % spec.eval_every == 0
                if due and not self._evaluate(state, step):
                    break
                if due and (reason := self._choose(state, step, data_state, pending)):
                    self.stopped = reason
                    break
                if due:
                    state = self._on_plateau(state, step)
                profile.at(step)
                with self.ledger.spend('data'):
                    fed = batches.take(min(pace.steps, self._until_event(step)))
                    data_state = fed.data
                if setup.log.histograms_every and step % setup.log.histograms_every == 0:
                    self._log(pending, step)
                    self._log_histograms(histogram_step(setup.phases.at(step)), state, fed, step)
                with self.ledger.spend('step'):
                    state, metrics = train_steps[setup.phases.at(step)](state, fed.batch)
                    pending.append((step + 1, fed.count, metrics))
                    step += fed.count
                    if len(pending) > 1:  # the host runs one call ahead of the devices, not more
                        jax.block_until_ready(pending[-2][2])
                        pace.completed(step - fed.count)
                # Logged while the devices compute the next steps, unless something else is due.
                self._log(pending, step - fed.count)
                if len(pending) > MOST_PENDING:  # an event comes late: free the devices' memory
                    self._fetch(pending, step - fed.count)
                if self._wait_at(step):
                    self._log(pending, step)
                    pace.completed(step)
                if step % spec.save_every == 0 or step == setup.total_steps:
                    self._save(state, step, data_state, pending)
        except (UserError, OSError):  # of data or files; the state is that of the last step
            if self._last_saved < step:
                self._rescue(state, step, data_state, pending)
            raise

        profile.stop()
        self._log(pending, step)
        if self._last_saved < step:
            self._save(state, step, data_state, pending)
        with self.ledger.spend('checkpoint'):
            self.checkpoints.wait()
        self.preemption.guard(False)
        return state

    def _until_event(self, step: int) -> int:
        """Returns the number of steps until the loop has something else to do."""
        setup, spec = self.setup, self.setup.run
        intervals = (spec.log_every, spec.save_every, spec.eval_every, setup.log.histograms_every)
        every = filter(None, intervals)
        ends = (setup.phases.end(step), setup.total_steps, *spec.profile)
        return min(*(n - step % n for n in every), *(end - step for end in ends if end > step))

    def _wait_at(self, step: int) -> bool:
        """Returns whether more than the next steps comes after a step: a save, an evaluation."""
        setup, spec = self.setup, self.setup.run
        every = filter(None, (spec.save_every, spec.eval_every))
        return step == setup.total_steps or any(step % n == 0 for n in every)

    def _time_is_over(self, step: int) -> bool:
        """Whether steps have taken the time that config.duration states; asked at log events.

        The time is that of the kept steps and of waiting for their data, over all restarts; that of
        process 0 holds for all processes.
        """
        limit = self.setup.time_limit
        if limit is None or step % self.setup.run.log_every:
            return False
        if agreement.on_first('time', self._training_seconds) < limit:
            return False
        self.stopped = f'{self.setup.duration} of training are over'
        return True

    def _training_seconds(self) -> float:
        seconds = self.ledger.seconds
        return seconds['data'] + seconds['step']

    def _seconds_left(self, step: int, rate: float) -> float:
        """Returns an estimate of the time to the end, at `rate` steps a second."""
        if self.setup.time_limit is not None:
            return max(self.setup.time_limit - self._training_seconds(), 0.0)
        return (self.setup.total_steps - step) / rate

    def _start_clock(self) -> None:
        self._clock = time.perf_counter()
        self._idle = self._idle_seconds()
        self._steps_seen = 0

    def _idle_seconds(self) -> float:
        seconds = self.ledger.seconds
        return seconds['eval'] + seconds['checkpoint'] + seconds['compile']

    def _fetch(self, pending: list[Steps], upto: int) -> None:
        """Fetches the pending metrics up to a step, and adds them to the interval.

        Raises UserError if any is not finite.
        """
        complete = [item for item in pending if item[0] <= upto]
        del pending[: len(complete)]
        with self.ledger.spend('step'):
            fetched = jax.device_get(complete)
        for first, count, metrics in fetched:
            self._steps_seen += count
            rows = {name: np.atleast_1d(value)[:count] for name, value in metrics.items()}
            broken = {name: ~np.isfinite(row) for name, row in rows.items()}
            if any(row.any() for row in broken.values()):
                self._refuse(first, broken)
            self.interval.add(rows)

    def _refuse(self, first: int, broken: dict[str, np.ndarray]) -> None:
        """Raises UserError for metrics that are not finite, of the steps from `first` on."""
        self.broken = True
        row = min(int(rows.argmax()) for rows in broken.values() if rows.any())
        names = ' and '.join(name for name, rows in broken.items() if rows[row])
        good = self.checkpoints.newest()
        raise UserError(
            f'{names} not finite at step {first + row}; the last good checkpoint is '
            f'{good or "none"}. Lower config.optim.lr, or set config.optim.clip_norm.'
        )

    def _log(self, pending: list[Steps], upto: int) -> None:
        """Logs the pending events up to a step."""
        for first, count, _ in tuple(pending):
            step = first + count - 1
            at_event = step % self.setup.run.log_every == 0 or step == self.setup.total_steps
            if at_event and step <= upto:
                self._log_event(pending, step)

    def _log_event(self, pending: list[Steps], step: int) -> None:
        self._fetch(pending, step)
        steps, means = self.interval.take()
        values: dict[str, float] = {'epoch': self.setup.epoch(step), 'train/steps': steps}
        values |= {f'train/{name}': mean for name, mean in means.items()}
        busy = time.perf_counter() - self._clock - (self._idle_seconds() - self._idle)
        rate = self._steps_seen / busy
        self._start_clock()
        values['learning_rate'] = self._scale * float(self.setup.learning_rate(step - 1))
        images = rate * self.setup.batch
        if self.metrics:
            spent = self.ledger.seconds
            where = {f'time/{bucket}': round(spent[bucket], 3) for bucket in BUCKETS}
            where['goodput'] = round(100 * goodput(spent), 2)
            self.metrics.write(step, values | {'images_per_second': images} | where)
        self.ledger.due.set()
        of = f'mean of {steps} steps' if steps > 1 else 'last step'
        shown = f'loss {means["loss"]:.4g}, top-1 {means["top1"]:.4g} %'
        shown = f'epoch {values["epoch"]:.2f}, {of}: {shown}'
        self.progress.update(step, shown, images, self._seconds_left(step, rate))

    def _histogram_step(self, phase: Phase) -> HistogramStep:
        assert self.histograms
        with self.ledger.spend('compile'):
            return self.histograms(phase)

    def _log_histograms(self, compute: HistogramStep, state: TrainState, fed: Fed, step: int):
        """Logs the histograms of the training step that follows `step` steps."""
        with self.ledger.spend('other'):
            fetched = jax.device_get(compute(state, fed.batch))
            if self.metrics:
                shown = displays.histograms(fetched)
                self.metrics.show(lambda logger: logger.histograms(step + 1, shown))

    def _evaluated(
        self, state: TrainState, final: bool = False, confusion: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns the metrics of a state, see `evaluate_state`; {} when stopped meanwhile."""
        try:
            with self.ledger.spend('eval'):
                check = self.preemption.check
                step = self.eval_step
                return evaluate_state(self.setup, step, state, check, final, confusion)
        except Preempted:
            return {}

    def _evaluate(
        self, state: TrainState, step: int, confusion: np.ndarray | None = None
    ) -> dict[str, float]:
        """Evaluates and logs; returns {} when stopped meanwhile.

        At the last step nothing is printed: its values are part of the result.
        """
        if not (values := self._evaluated(state, confusion=confusion)):
            return {}
        if self.metrics:
            self.metrics.write(step, {'epoch': self.setup.epoch(step)} | values)
            self.metrics.flush()
        if step < self.setup.total_steps:
            self.progress.note(
                f'step {step}, epoch {self.setup.epoch(step):.2f}: {summary(values)}'
            )
        self.evaluated = step, values
        return values

    def _choose(
        self,
        state: TrainState,
        step: int,
        data_state: Any = None,
        pending: list[Steps] | None = None,
    ) -> str:
        """Keeps the checkpoint of the newest evaluation if it is the best.

        Returns the reason to end the training, '' to go on.
        """

        def save() -> None:
            if self._last_saved < step:
                self._save(state, step, data_state, pending or [])

        with self.ledger.spend('checkpoint'):
            return self.selection.observe(step, self.evaluated[1], save)

    def _on_plateau(self, state: TrainState, step: int) -> TrainState:
        """Returns the state with the scale of the learning rate after the newest evaluation.

        A checkpoint of this step has the scale before it: a run that continues evaluates again.
        """
        before, spec = plateau.find(state.opt_state), self.setup.schedule
        if before is None:
            return state
        value = next(x for name, x in self.evaluated[1].items() if name.endswith(f'/{spec.metric}'))
        after = plateau.observed(
            before,
            value,
            higher=metric_names.HIGHER[spec.metric],
            factor=spec.gamma,
            patience=spec.patience,
            threshold=spec.threshold,
            least=spec.end,
        )
        if float(after.scale) != self._scale:
            self.progress.note(
                f'step {step}: {spec.patience + 1} evaluations without a better {spec.metric}: the '
                f'learning rate is {float(after.scale):.3g} times that of the schedule'
            )
        self._scale = float(after.scale)
        self._before_plateau = step, before
        old = {name: getattr(before, name) for name in ('scale', 'best', 'bad')}
        new = {name: getattr(after, name) for name in old}
        placed = meshes.put(new, jax.tree.map(lambda x: x.sharding, old))
        return state.replace(opt_state=plateau.replaced(state.opt_state, before._replace(**placed)))

    def _save(self, state: TrainState, step: int, data_state: Any, pending: list[Steps]) -> None:
        if pending:
            self._fetch(pending, step)  # a broken state must not replace a good checkpoint
        with self.ledger.spend('checkpoint'):
            if self.metrics:
                self.metrics.flush()  # a run that continues here logs later steps only
            record = self.ledger.record() | {'interval': self.interval.record()}
            standing = self.selection.record(step)
            self.checkpoints.save(step, state, data_state, record, standing)
        self._last_saved = step

    def _rescue(self, state: TrainState, step: int, data_state: Any, pending: list[Steps]) -> None:
        """Saves the state of a run that cannot continue, if the state is valid."""
        with contextlib.suppress(Exception):  # the first error is reported
            self._log(pending, step)
        if self.broken or self.checkpoints.failed or jax.process_count() > 1:
            return
        with contextlib.suppress(Exception):  # the first error is reported
            observed, before = self._before_plateau
            if before is not None and observed == step:  # a run that continues evaluates again
                state = state.replace(opt_state=plateau.replaced(state.opt_state, before))
            self._save(state, step, data_state, pending)
            self.checkpoints.wait()
            self.progress.note(f'saved at step {step}')

    def finish(self, state: TrainState) -> dict[str, Any] | None:
        """Evaluates the chosen weights and writes result.json, unless stopped meanwhile.

        They are those of the best checkpoint if the run keeps it, else the last ones.
        """
        step = int(state.step)
        counts, once = displays.confusion(self.setup), self.setup.tested_once
        if self.evaluated[0] != step:  # a run that stops early has just been evaluated
            if not self._evaluate(state, step, None if once else counts):
                return None
            self._choose(state, step)
        chosen, best = self._best(state) if self.setup.run.best else (state, None)
        values = dict(best.values if best else self.evaluated[1])
        if best and best.step != step and not once:
            counts = None  # they are of the last weights
        if once:
            if not (tested := self._evaluated(chosen, True, counts)):
                return None
            values |= tested
        params = sum(x.size for x in jax.tree.leaves(state.params))
        result: dict[str, Any] = {'split': self.setup.test.split, 'step': step, 'params': params}
        result = values | result
        if best:
            result['best'] = {'step': best.step, 'metric': best.metric, 'value': best.value}
        if self.stopped:
            result['stopped'] = self.stopped
            self.progress.note(f'stopped at step {step}: {self.stopped}')
        if words := in_words(self.setup, best):
            result['evaluated'] = words
            self.progress.note(words)
        result |= self.ledger.report() | ({'together': self.together} if self.together > 1 else {})
        if self.setup.supernet:
            result |= self.setup.supernet.finish(chosen.params, self.workdir)
        if self.metrics:
            if counts is not None and counts.any():
                displays.show_confusion(self.metrics, step, values, counts, self.setup)
            self.metrics.show(lambda logger: logger.summary(step, displays.flat(result)))
            write_json(self.workdir / 'result.json', result)
        return result

    def _best(self, state: TrainState) -> tuple[TrainState, Standing | None]:
        """Returns (the state of the best checkpoint, its standing), or (`state`, None)."""
        best = self.selection.standing
        if best.step is None or best.step == int(state.step):
            return state, None if best.step is None else best
        where = abstract_state(state, self.setup.mesh)
        where = where.replace(opt_state=unread(where.opt_state))
        restored = restore_newest(self.workdir / 'checkpoints', where, only(best.step))
        if restored is None:
            self.progress.note(
                f'warning: the best checkpoint, of step {best.step}, is gone: the result is of '
                f'the last one, of step {int(state.step)}'
            )
            return state, None
        return restored.replace(opt_state=()), best

    def close(self, failed: bool = False) -> None:
        """Waits for pending writes; raises their errors unless the run has `failed`."""
        expected = (Exception,) if failed else ()
        parts = [self.progress.close, self.checkpoints.close]
        parts += [functools.partial(self.metrics.close, failed)] if self.metrics else []
        for close in parts:
            with contextlib.suppress(*expected):
                close()

"""The training loop of a run: steps, logging, evaluations and checkpoints.

May import: data, distributed, errors, evaluate, run, setup, steps.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from cls.data import iteration
from cls.distributed import agreement
from cls.distributed.preemption import Preempted, Preemption
from cls.errors import UserError
from cls.evaluate import EvalStep, evaluate_state, summary
from cls.run.checkpoint import Checkpoints
from cls.run.goodput import BUCKETS, TimeLedger, goodput
from cls.run.telemetry import NEVER, Metrics, Profile, Progress, write_json
from cls.setup import Setup
from cls.steps import sharding as meshes
from cls.steps.phases import Phase
from cls.steps.state import TrainState

TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]
TrainBatches = iteration.TrainIterator | iteration.ZippedIterator


def lazy_jit(eval_step: Any, ledger: TimeLedger) -> EvalStep:
    """Returns a jitted step for batches of one shape, compiled at its first call.

    The compilation counts as 'compile' time.
    """
    compiled = None

    def step(variables: Any, batch: Any) -> dict[str, jax.Array]:
        nonlocal compiled
        if compiled is None:
            with ledger.spend('compile'):
                compiled = eval_step.lower(variables, batch).compile()
        return compiled(variables, batch)

    return step


def prefetch_to_device(
    iterator: TrainBatches, setup: Setup
) -> Generator[tuple[Any, Any], None, None]:
    """Yields (batch on the devices, data position after it).

    A thread fetches and transfers the next batch meanwhile. Closing waits for the thread.
    """
    sharding = meshes.batch_sharding(setup.mesh)

    def following() -> tuple[Any, Any]:
        batch = meshes.put_batch(next(iterator), sharding)
        return batch, iterator.get_state()

    with ThreadPoolExecutor(1, thread_name_prefix='prefetch') as thread:
        ahead = thread.submit(following)
        while True:
            batch = ahead.result()
            ahead = thread.submit(following)
            yield batch


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
    broken: bool = False  # whether the state is invalid and must not be saved

    def run(
        self, train_steps: Mapping[Phase, TrainStep], state: TrainState, iterator: TrainBatches
    ) -> dict[str, Any] | None:
        """Trains, evaluates and closes; returns the result, or None when stopped before the end."""
        try:
            state = self.loop(train_steps, state, iterator)
            finished = int(state.step) == self.setup.total_steps and not self.preemption.due()
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
        with closing(prefetch_to_device(iterator, self.setup)) as batches:
            return self._loop(train_steps, state, batches, iterator.get_state())

    def _loop(
        self,
        train_steps: Mapping[Phase, TrainStep],
        state: TrainState,
        batches: Iterator[tuple[Any, Any]],
        data_state: Any,
    ) -> TrainState:
        setup, spec = self.setup, self.setup.run
        profile = Profile(spec.profile if agreement.is_main_process() else NEVER, self.workdir)
        pending: list[tuple[int, dict[str, jax.Array]]] = []  # metrics that are not fetched yet
        self._start_clock()
        self.preemption.guard(True)
        step, last_saved = int(state.step), int(state.step)

        try:
            while step < setup.total_steps and not self.preemption.due():
                # Before the next step and after the save: a run that continues here evaluates too.
                due = spec.eval_every and step and step % spec.eval_every == 0
                if due and not self._evaluate(state, step):
                    break
                profile.at(step)
                with self.ledger.spend('data'):
                    batch, data_state = next(batches)
                with self.ledger.spend('step'):
                    state, metrics = train_steps[setup.phases.at(step)](state, batch)
                    step += 1
                    pending.append((step, metrics))
                    if len(pending) > 1:  # the host runs one step ahead of the devices, not more
                        jax.block_until_ready(pending[-2])
                last = step == setup.total_steps
                if step % spec.log_every == 0 or last:
                    self._log(pending)
                if step % spec.save_every == 0 or last:
                    self._save(state, step, data_state, pending)
                    last_saved = step
        except (UserError, OSError):  # of data or files; the state is that of the last step
            if last_saved < step:
                self._rescue(state, step, data_state, pending)
            raise

        profile.stop()
        if last_saved < step:
            self._save(state, step, data_state, pending)
        with self.ledger.spend('checkpoint'):
            self.checkpoints.wait()
        self.preemption.guard(False)
        return state

    def _start_clock(self) -> None:
        self._clock = time.perf_counter()
        self._idle = self._idle_seconds()
        self._steps_seen = 0

    def _idle_seconds(self) -> float:
        seconds = self.ledger.seconds
        return seconds['eval'] + seconds['checkpoint'] + seconds['compile']

    def _fetch(self, pending: list[tuple[int, Any]]) -> tuple[int, dict[str, float]]:
        """Fetches all pending metrics; returns the last. Raises UserError if any is not finite."""
        with self.ledger.spend('step'):
            fetched = jax.device_get(pending)
        self._steps_seen += len(pending)
        pending.clear()
        for step, values in fetched:
            broken = [name for name, value in values.items() if not math.isfinite(value)]
            if broken:
                self.broken = True
                good = self.checkpoints.newest()
                raise UserError(
                    f'{" and ".join(broken)} not finite at step {step}; the last good checkpoint '
                    f'is {good or "none"}. Lower config.optim.lr, or set config.optim.clip_norm.'
                )
        step, values = fetched[-1]
        return step, {f'train/{name}': float(value) for name, value in values.items()}

    def _log(self, pending: list[tuple[int, Any]]) -> None:
        step, values = self._fetch(pending)
        busy = time.perf_counter() - self._clock - (self._idle_seconds() - self._idle)
        rate = self._steps_seen / busy
        self._start_clock()
        values['learning_rate'] = float(self.setup.learning_rate(step - 1))
        images = rate * self.setup.batch
        if self.metrics:
            spent = self.ledger.seconds
            where = {f'time/{bucket}': round(spent[bucket], 3) for bucket in BUCKETS}
            where['goodput'] = round(100 * goodput(spent), 2)
            self.metrics.write(step, values | {'images_per_second': images} | where)
        self.ledger.due.set()
        shown = f'this batch: loss {values["train/loss"]:.4g}, top-1 {values["train/top1"]:.4g} %'
        self.progress.update(step, shown, images, (self.setup.total_steps - step) / rate)

    def _evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """Evaluates and logs; returns {} when stopped meanwhile.

        At the last step nothing is printed: its values are part of the result.
        """
        try:
            with self.ledger.spend('eval'):
                check = self.preemption.check
                values = evaluate_state(self.setup, self.eval_step, state, check)
        except Preempted:
            return {}
        if self.metrics:
            self.metrics.write(step, values)
            self.metrics.flush()
        if step < self.setup.total_steps:
            self.progress.note(f'step {step}: ' + summary(values))
        return values

    def _save(self, state: TrainState, step: int, data_state: Any, pending: list) -> None:
        if pending:
            self._fetch(pending)  # a broken state must not replace a good checkpoint
        with self.ledger.spend('checkpoint'):
            if self.metrics:
                self.metrics.flush()  # a run that continues here logs later steps only
            self.checkpoints.save(step, state, data_state, self.ledger.record())

    def _rescue(self, state: TrainState, step: int, data_state: Any, pending: list) -> None:
        """Saves the state of a run that cannot continue, if the state is valid."""
        if self.broken or self.checkpoints.failed or jax.process_count() > 1:
            return
        with contextlib.suppress(Exception):  # the first error is reported
            self._save(state, step, data_state, pending)
            self.checkpoints.wait()
            self.progress.note(f'saved at step {step}')

    def finish(self, state: TrainState) -> dict[str, Any] | None:
        """Evaluates the trained weights and writes result.json, unless stopped meanwhile."""
        step = int(state.step)
        values = self._evaluate(state, step)
        if not values:
            return None
        params = sum(x.size for x in jax.tree.leaves(state.params))
        result = values | {'split': self.setup.test.split, 'step': step, 'params': params}
        result |= self.ledger.report()
        if self.setup.supernet:
            result |= self.setup.supernet.finish(state.params, self.workdir)
        if self.metrics:
            write_json(self.workdir / 'result.json', result)
        return result

    def close(self, failed: bool = False) -> None:
        """Waits for pending writes; raises their errors unless the run has `failed`."""
        expected = (Exception,) if failed else ()
        for part in filter(None, (self.progress, self.checkpoints, self.metrics)):
            with contextlib.suppress(*expected):
                part.close()

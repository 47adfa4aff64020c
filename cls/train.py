"""The training job: restore, compile, loop, evaluate, save.

A run can be killed at any moment; the same call continues it from its newest checkpoint and ends in
the same state, to the bit, as without the interruption.

May import: anything but ensemble, main, search, tools.
"""

import contextlib
import dataclasses
import functools
import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cls.config import presets, runs
from cls.data import broken, datasets, pipeline
from cls.distributed import agreement
from cls.distributed.preemption import Preempted, Preemption
from cls.errors import UserError
from cls.evaluate import EvalStep, evaluate_state, summary
from cls.run import same_data
from cls.run.checkpoint import Checkpoints
from cls.run.goodput import BUCKETS, FILE, TimeLedger, goodput, load_record, written
from cls.run.telemetry import NEVER, Metrics, Profile, Progress, write_json
from cls.run.workdir import finished_result, open_run, saved_config, settle
from cls.setup import Setup, abstract_state, former_length, process, set_up
from cls.steps import sharding as meshes
from cls.steps.phases import Phase
from cls.steps.state import TrainState
from cls.steps.train_step import make_train_step
from cls.weights import pretrained

FINISHED = (
    '{} holds the finished run of this config: nothing was trained. Another --workdir starts a new '
    'one.'
)

TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]
TrainBatches = pipeline.TrainIterator | pipeline.ZippedIterator


def job(config: ConfigDict, workdir: Path, began: float | None = None) -> dict[str, Any] | None:
    """Trains a config in a run folder, or continues to.

    Returns the result, or None when stopped before the end. The run's time counts from `began` on
    the clock of time.perf_counter; None: from now.

    Raises UserError, before anything is written, for mistakes in the config and for a folder that
    holds something else; and as `fit`.
    """
    ledger, run_config = TimeLedger(began), runs.run_config(config)
    # The first process looks into the folder, for all of them.
    result = agreement.on_first('folder', lambda: finished_result(workdir, run_config))
    if result is not None:
        agreement.print_once(FINISHED.format(workdir))
        return result
    # Mistakes in the config, and weights that do not fit, end here, before anything is written.
    begun = agreement.on_first('begun', lambda: any((workdir / 'checkpoints').glob('[0-9]*')))
    setup = agreement.on_all('set-up', lambda: set_up(config, begun=begun))
    data = agreement.on_all('data', lambda: datasets.identity(setup.train, setup.test))
    same_data.check(workdir, data, begun, setup.data.allow_changed)
    load = setup.init.source and not begun
    variables = agreement.on_all('init', lambda: initial_weights(setup)) if load else None
    for line in presets.describe(config, setup.info.num_train, setup.info.num_classes):
        agreement.print_once(line)
    with open_run(workdir, run_config, setup.info.class_names):
        if agreement.is_main_process():
            write_json(workdir / same_data.FILE, data)
        agreement.print_once(f'run folder: {workdir}')
        agreement.print_once(evaluated_on(setup))
        result = fit(setup, workdir, variables, ledger, data)
    broken.report(setup.data.workers)
    return result


def evaluated_on(setup: Setup) -> str:
    """Returns a line on the images that the figures of a run are of."""
    test = setup.test
    return (
        f'{test.split_kind} figures are of {len(test):,} images: {setup.data.name}, '
        f'split {test.split!r}'
    )


def initial_weights(setup: Setup) -> Any:
    """Returns the variables of config.init, in host memory, see cls.weights.pretrained."""
    shape, names = setup.info.image_shape, setup.test.class_names
    return pretrained.load(setup.init, setup.model, shape, setup.seed, names)


def fit(
    setup: Setup,
    workdir: Path,
    variables: Any = None,
    ledger: TimeLedger | None = None,
    data: same_data.Data | None = None,
) -> dict[str, Any] | None:
    """Trains to the end and returns the result, or None when stopped before.

    A run without a checkpoint starts from `variables`, in host memory; None: from config.init, or
    from newly drawn ones.

    Every checkpoint keeps `data`, see cls.run.same_data.

    Writes checkpoints/, metrics.jsonl, time.json and tensorboard/ into workdir, and at the end
    result.json. Time is added to `ledger`, and to that of earlier processes of the run.

    Raises UserError for data that cannot be read and when the loss is no longer finite.
    """
    ledger, spent = ledger or TimeLedger(), load_record(workdir / FILE)
    ledger.continue_from(spent, spent)  # the rework is known once a checkpoint is read
    leader = agreement.is_main_process()
    with Preemption() as preemption, written(ledger, workdir / FILE, leader):
        # Shapes before arrays: a run that continues draws no weights.
        shapes, optimizer = setup.new_state_shapes()
        where = abstract_state(shapes, setup.mesh)
        if line := setup.split_groups(shapes.batch_stats):
            agreement.print_once(line)
        iterator = train_batches(setup)
        check_shared_memory(iterator)
        saved = saved_config(workdir) if leader else None
        checkpoints = _checkpoints(setup, workdir, data)
        state, record = _start(setup, where, checkpoints, iterator, variables)
        ledger.continue_from(record or {}, spent)
        step = int(state.step)
        _check_step(setup, workdir, step)
        if record is not None:
            agreement.print_once(f'continuing from step {step} of {setup.total_steps}')
        if step and saved and (line := lengthened(setup, saved, step)):
            agreement.print_once(line)

        if step < setup.total_steps:
            agreement.print_once(
                'compiling the training step: about a minute, much longer for large networks, '
                'a few seconds where it is in the cache'
            )
        with ledger.spend('compile'):
            more = step < setup.total_steps
            train_steps = compile_train_steps(setup, optimizer, where, step) if more else {}

            # Devices wait for one another by far less than compilers may differ.
            agreement.gather('compiled', None)

        ledger.switch('other')
        trainer = Trainer(
            setup=setup,
            ledger=ledger,
            checkpoints=checkpoints,
            metrics=Metrics(workdir, step) if leader else None,
            progress=Progress(step, setup.total_steps, show=leader),
            preemption=preemption,
            eval_step=lazy_jit(setup.eval_step(), ledger),
            workdir=workdir,
        )
        return trainer.run(train_steps, state, iterator)


def _checkpoints(setup: Setup, workdir: Path, data: same_data.Data | None) -> Checkpoints:
    """Opens the checkpoints of a run, each with a record of its config, classes and data."""
    config, names = setup.config, setup.info.class_names
    return Checkpoints(
        workdir / 'checkpoints',
        setup.run.keep,
        record=config.record(names, data),
        completed=lambda step: settle(workdir, config, names),
    )


def _start(
    setup: Setup,
    where: TrainState,
    checkpoints: Checkpoints,
    iterator: TrainBatches,
    variables: Any,
) -> tuple[TrainState, dict[str, float] | None]:
    """Returns (the state that training starts from, the record of its time).

    It is that of the newest checkpoint, to whose position the iterator is set; without one it is
    the state before the first step, and the record is None.
    """
    restored = checkpoints.restore(where)
    if restored is not None:
        state, data_state, record = restored
        iterator.set_state(data_state)
        return state, record
    if setup.init.source and variables is None:  # all checkpoints were damaged
        variables = initial_weights(setup)
    state, _ = setup.new_state(variables)
    return meshes.put(state, jax.tree.map(lambda x: x.sharding, where)), None


def _check_step(setup: Setup, workdir: Path, step: int) -> None:
    if step > setup.total_steps:
        raise UserError(
            f'{workdir} has come to step {step} already, and config.duration is '
            f'{setup.duration!r}, {setup.total_steps} steps: expected as many or more.'
        )


def lengthened(setup: Setup, saved: str, step: int) -> str:
    """Returns a line on the schedule of a run of another length than before; '' if it is the same.

    Args:
      setup: of the run as it goes on.
      saved: the JSON text of its config until now.
      step: from which it goes on.
    """
    before = former_length(setup, saved)
    if before is None:
        return ''
    rates = [float(rate(step)) for rate in (before.learning_rate, setup.learning_rate)]
    return (
        f'config.duration was {before.duration!r} ({before.total_steps} steps) and is '
        f'{setup.duration!r} ({setup.total_steps} steps): from step {step} on the schedule, and '
        f'all that is in percent of the run, is that of the new length; the learning rate there '
        f'was {rates[0]:.6g} and is {rates[1]:.6g}.'
    )


def train_batches(setup: Setup) -> TrainBatches:
    """Returns this process's share of the endless training batches.

    Those of a supernet's training have a second one under 'valid', of the images to evaluate on.
    """
    batches = functools.partial(
        pipeline.train_batches,
        data=setup.data,
        batch=setup.batch,
        seed=setup.seed,
        num_classes=setup.info.num_classes,
        process=process(),
        sizes=setup.phases.sizes,
    )
    if setup.supernet is None:
        return batches(setup.train)
    return pipeline.ZippedIterator(batches(setup.train), batches(setup.test))


def check_shared_memory(iterator: TrainBatches) -> None:
    """Warns once, before anything is compiled, of a machine whose workers will lack memory."""
    need, free = pipeline.shared_memory(iterator), pipeline.free_shared_memory()
    processes = agreement.gather('shared memory', (socket.gethostname(), need, free))
    for host in dict.fromkeys(host for host, _, _ in processes):
        needs = [need for name, need, _ in processes if name == host and need]
        free = min(
            (free for name, _, free in processes if name == host and free is not None), default=None
        )
        if text := pipeline.missing_shared_memory(needs, free):
            agreement.print_once(f'warning: on {host}, {text}')
            return


def abstract_batch(setup: Setup, pixels: int) -> dict[str, Any]:
    """Returns the shapes and shardings of a global training batch of square images."""
    size, sharding = setup.batch, meshes.batch_sharding(setup.mesh)
    shapes = {'image': ((size, pixels, pixels, setup.info.image_shape[2]), 'uint8')}
    shapes |= {'label': ((size,), 'int32'), 'mask': ((size,), 'bool')}
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }
    return batch | ({'valid': batch} if setup.supernet else {})


def compile_train_steps(
    setup: Setup, optimizer: Any, where: TrainState, step: int, **options: Any
) -> dict[Phase, TrainStep]:
    """Returns the compiled step of each phase from a step to the end, see `compile_train_step`."""
    phases = setup.phases.following(step)
    return {p: compile_train_step(setup, optimizer, where, p, **options) for p in phases}


def compile_train_step(
    setup: Setup,
    optimizer: Any,
    where: TrainState,
    phase: Phase,
    metrics: bool = True,
    compiler_options: Any = None,
) -> TrainStep:
    """Returns the compiled step of a phase; it donates the buffers of its input state.

    Args:
      setup: of the run.
      optimizer: the update rule.
      where: the shapes and shardings of a state.
      phase: of the training.
      metrics: whether the step returns any; without them there is less to compile.
      compiler_options: names and values for XLA's compiler.
    """
    recipe = dataclasses.replace(setup.recipe, freeze_bn=phase.freeze_bn)
    make = setup.supernet.make_train_step if setup.supernet else make_train_step
    step = make(setup.model, optimizer, recipe, meshes.batch_sharding(setup.mesh))
    shardings = jax.tree.map(lambda x: x.sharding, where)
    jitted = jax.jit(
        step if metrics else lambda state, batch: (step(state, batch)[0], {}),
        donate_argnums=0,
        out_shardings=(shardings, meshes.replicated(setup.mesh)),
    )
    lowered = jitted.lower(where, abstract_batch(setup, phase.size))
    return lowered.compile(compiler_options=compiler_options)


def lazy_jit(eval_step: Any, ledger: TimeLedger) -> EvalStep:
    """Returns a jitted step for batches of one shape, compiled at the first, as 'compile' time."""
    compiled = None

    def step(variables: Any, batch: Any) -> dict[str, jax.Array]:
        nonlocal compiled
        if compiled is None:
            with ledger.spend('compile'):
                compiled = eval_step.lower(variables, batch).compile()
        return compiled(variables, batch)

    return step


def prefetch_to_device(iterator: Iterator[Any], setup: Setup) -> Iterator[tuple[Any, Any]]:
    """Yields (batch on the devices, data position after it).

    A thread fetches and sends the next batch meanwhile. Closing waits for it.
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
    """The training loop, and the parts of a run that it calls."""

    setup: Setup
    ledger: TimeLedger
    checkpoints: Checkpoints
    metrics: Metrics | None  # of the first process only
    progress: Progress
    preemption: Preemption
    eval_step: EvalStep
    workdir: Path
    broken: bool = False  # whether the state must not be saved

    def run(
        self, train_steps: Mapping[Phase, TrainStep], state: TrainState, iterator: TrainBatches
    ) -> dict[str, Any] | None:
        """Trains, evaluates and closes all; returns the result, or None when stopped before."""
        try:
            state = self.loop(train_steps, state, iterator)
            finished = int(state.step) == self.setup.total_steps and not self.preemption.due()
            result = self.finish(state) if finished else None
            self.progress.note(f'time: {self.ledger}')
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
                iterator.close()
            self.close(failed=True)
            raise
        iterator.close()
        self.close()
        return result

    def loop(
        self, train_steps: Mapping[Phase, TrainStep], state: TrainState, iterator: TrainBatches
    ) -> TrainState:
        """Trains to the last step, or until stopped; the state that it returns is saved."""
        # Closed before the iterator is, whatever happens: its thread reads from there.
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
                    if len(pending) > 1:  # let the host run one step ahead of the devices, not more
                        jax.block_until_ready(pending[-2])
                last = step == setup.total_steps
                if step % spec.log_every == 0 or last:
                    self._log(pending)
                if step % spec.save_every == 0 or last:
                    self._save(state, step, data_state, pending)
                    last_saved = step
        except (UserError, OSError):  # of data or files: the state is that of the last step
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

    def _look_at(self, pending: list[tuple[int, Any]]) -> tuple[int, dict[str, float]]:
        """Fetches all metrics that are due; returns the last. Raises UserError if any is broken."""
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
        step, values = self._look_at(pending)
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
        """Evaluates and logs; returns nothing when told to stop meanwhile.

        At the last step nothing is printed: that is the result.
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
            self._look_at(pending)  # a broken state must not displace a good checkpoint
        with self.ledger.spend('checkpoint'):
            if self.metrics:
                self.metrics.flush()  # who continues from here logs what comes after
            self.checkpoints.save(step, state, data_state, self.ledger.record())

    def _rescue(self, state: TrainState, step: int, data_state: Any, pending: list) -> None:
        """Saves what a run that cannot go on has come to, where it is sound and can be saved."""
        if self.broken or self.checkpoints.failed or jax.process_count() > 1:
            return
        with contextlib.suppress(Exception):  # what went wrong first is what is said
            self._save(state, step, data_state, pending)
            self.checkpoints.wait()
            self.progress.note(f'saved at step {step}')

    def finish(self, state: TrainState) -> dict[str, Any] | None:
        """Evaluates the trained weights and writes result.json, unless told to stop meanwhile."""
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
        """Finishes writing; what cannot be written is an error unless the run has `failed`."""
        expected = Exception if failed else ()
        for part in filter(None, (self.progress, self.checkpoints, self.metrics)):
            with contextlib.suppress(expected):
                part.close()

"""The training job: restore, compile, loop, evaluate, save.

A run can be killed at any moment; the same call continues it from its newest checkpoint and ends in
the same state, to the bit, as if nothing had happened.

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

from cls.config import durations, presets
from cls.config import load as configs
from cls.data import broken, datasets, pipeline
from cls.distributed import agreement
from cls.distributed.preemption import Preempted, Preemption
from cls.errors import UserError
from cls.evaluate import EvalStep, evaluate_state, summary
from cls.run import same_data
from cls.run.checkpoint import Checkpoints
from cls.run.goodput import BUCKETS, FILE, TimeLedger, goodput, load_record, written
from cls.run.telemetry import Metrics, Profile, Progress, write_json
from cls.run.workdir import finished_result, open_run, record, saved_config, settle
from cls.setup import Phase, Setup, abstract_state, process, set_up, split_groups
from cls.steps import sharding as meshes
from cls.steps.state import TrainState
from cls.steps.train_step import make_train_step
from cls.weights import pretrained

FINISHED = (
    '{} holds the finished run of this config: nothing was trained. Another --workdir starts a new '
    'one.'
)

TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def in_folder(
    config: ConfigDict, workdir: Path, began: float | None = None
) -> dict[str, Any] | None:
    """Trains a config in a run folder, or continues to; returns the result, or None when stopped.

    The run's time counts from `began` on the clock of time.perf_counter; None: from now.

    Raises UserError, before anything is written, for mistakes in the config and for a folder that
    holds something else; and as `train`.
    """
    ledger = TimeLedger(began)
    # What a folder holds is found out once, and told to the other processes.
    result = agreement.on_first('folder', lambda: finished_result(workdir, config))
    if result is not None:
        agreement.print_once(FINISHED.format(workdir))
        return result
    # Mistakes in the config, and weights that do not fit, end here, before anything is written.
    begun = agreement.on_first('begun', lambda: any((workdir / 'checkpoints').glob('[0-9]*')))
    setup = agreement.on_all('set-up', lambda: set_up(config, begun=begun))
    data = agreement.on_all('data', lambda: datasets.identity(setup.train, setup.test))
    same_data.check(workdir, data, begun, config.data.allow_changed)
    load = config.init and not begun
    variables = agreement.on_all('init', lambda: pretrained.load(setup)) if load else None
    for line in presets.describe(config, setup.info.num_train, setup.info.num_classes):
        agreement.print_once(line)
    with open_run(workdir, config, setup.info.class_names):
        if agreement.is_main_process():
            write_json(workdir / same_data.FILE, data)
        agreement.print_once(f'run folder: {workdir}')
        agreement.print_once(evaluated_on(setup))
        result = train(setup, workdir, variables, ledger, data)
    broken.report(config.data.workers)
    return result


def evaluated_on(setup: Setup) -> str:
    """Returns a line that says which images the figures of a run are of."""
    test, name = setup.test, setup.config.data.name
    return f'{test.split_kind} figures are of {len(test):,} images: {name}, split {test.split!r}'


def train(
    setup: Setup,
    workdir: Path,
    variables: Any = None,
    ledger: TimeLedger | None = None,
    data: same_data.Data | None = None,
) -> dict[str, Any] | None:
    """Trains to the end and returns the result, or None when it was told to stop before.

    A run without a checkpoint starts from `variables`, in host memory; None: from config.init.

    Every checkpoint keeps `data`, see cls.run.same_data.

    Writes checkpoints/, metrics.jsonl, time.json and tensorboard/ into workdir, and at the end
    result.json. Time is added to `account`, and to what earlier processes of the run spent.

    Raises UserError for data that cannot be read and when the loss is no longer finite.
    """
    ledger, spent = ledger or TimeLedger(), load_record(workdir / FILE)
    ledger.continue_from(spent, spent)  # what of it was lost is known when a checkpoint is read
    leader = agreement.is_main_process()
    with Preemption() as preemption, written(ledger, workdir / FILE, leader):
        # ---- a state before the first step, in host memory; shapes before arrays
        state, optimizer = setup.new_state(variables)
        where = abstract_state(state, setup.mesh)
        if line := split_groups(setup, state.batch_stats):
            agreement.print_once(line)
        iterator = train_batches(setup)
        check_shared_memory(iterator)

        # ---- continue from the newest checkpoint, or start anew
        about = setup.config, setup.info.class_names
        saved = saved_config(workdir) if leader else None
        checkpoints = Checkpoints(
            workdir / 'checkpoints',
            setup.config.checkpoint.keep,
            record=record(*about, data),
            completed=lambda step: settle(workdir, *about),
        )
        restored = checkpoints.restore(where)
        if restored is None:
            if setup.config.init and variables is None:  # all checkpoints were damaged
                state, _ = setup.new_state(pretrained.load(setup))
            state = meshes.put(state, jax.tree.map(lambda x: x.sharding, where))
        else:
            state, data_state, _ = restored
            iterator.set_state(data_state)
        ledger.continue_from(restored[2] if restored else {}, spent)
        step = int(state.step)
        if step > setup.total_steps:
            raise UserError(
                f'{workdir} has come to step {step} already, and config.duration is '
                f'{setup.config.duration!r}, {setup.total_steps} steps: expected as many or more.'
            )
        if restored is not None:
            agreement.print_once(f'continuing from step {step} of {setup.total_steps}')
        if step and saved and (line := lengthened(setup, saved, step)):
            agreement.print_once(line)

        # ---- compile
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

        # ---- loop
        ledger.switch('other')
        run = Run(
            setup=setup,
            ledger=ledger,
            checkpoints=checkpoints,
            metrics=Metrics(workdir, step) if leader else None,
            progress=Progress(step, setup.total_steps, show=leader),
            preemption=preemption,
            eval_step=compiled_once(setup.eval_step(), ledger),
            workdir=workdir,
        )
        try:
            state = run.loop(train_steps, state, iterator)
            finished = int(state.step) == setup.total_steps and not preemption.due()
            result = run.finish(state) if finished else None
            run.progress.note(f'time: {ledger}')
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is what is said
                iterator.close()
            run.close(failed=True)
            raise
        iterator.close()
        run.close()
        return result


def lengthened(setup: Setup, saved: str, step: int) -> str:
    """Returns a line on what another length of a run does to its schedule; '' if it has the same.

    Args:
      setup: of the run as it goes on.
      saved: the JSON text of the config that it had until now.
      step: from which it goes on.
    """
    config = setup.config
    before = configs.from_json(saved)
    if before.duration == config.duration:
        return ''
    total = durations.steps(before.duration, batch=config.batch, examples=setup.info.num_train)
    earlier = dataclasses.replace(setup, config=before, total_steps=total)
    rates = [float(of.schedule()(step)) for of in (earlier, setup)]
    return (
        f'config.duration was {before.duration!r} ({total} steps) and is {config.duration!r} '
        f'({setup.total_steps} steps): from step {step} on the schedule, and all that is in '
        f'percent of the run, is that of the new length; the learning rate there was '
        f'{rates[0]:.6g} and is {rates[1]:.6g}.'
    )


def train_batches(setup: Setup) -> pipeline.TrainIterator | pipeline.Paired:
    """Returns this process's share of the endless training batches.

    Those of a supernet's training have another under 'held', of what is evaluated on.
    """
    batches = functools.partial(
        pipeline.train_batches,
        data=setup.config.data,
        batch=setup.config.batch,
        seed=setup.config.seed,
        num_classes=setup.info.num_classes,
        process=process(),
        sizes=setup.train_sizes(),
    )
    if setup.supernet is None:
        return batches(setup.train)
    return pipeline.Paired(batches(setup.train), batches(setup.test))


def check_shared_memory(iterator: pipeline.TrainIterator | pipeline.Paired) -> None:
    """Warns once, before anything is compiled, of a machine whose workers will lack memory."""
    mine = socket.gethostname(), pipeline.shared_memory(iterator), pipeline.free_shared_memory()
    processes = agreement.gather('shared memory', mine)
    for host in dict.fromkeys(host for host, _, _ in processes):
        needs = [need for name, need, _ in processes if name == host and need]
        free = min(
            (free for name, _, free in processes if name == host and free is not None), default=None
        )
        if text := pipeline.missing_shared_memory(needs, free):
            agreement.print_once(f'warning: on {host}, {text}')
            return


def abstract_batch(setup: Setup, pixels: int) -> dict[str, Any]:
    """Returns the shapes of a global training batch of square images, and where it lies."""
    size, sharding = setup.config.batch, meshes.batch_sharding(setup.mesh)
    shapes = {'image': ((size, pixels, pixels, setup.info.image_shape[2]), 'uint8')}
    shapes |= {'label': ((size,), 'int32'), 'mask': ((size,), 'bool')}
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }
    return batch | ({'held': batch} if setup.supernet else {})


def compile_train_steps(
    setup: Setup, optimizer: Any, where: TrainState, step: int, **options: Any
) -> dict[Phase, TrainStep]:
    """Returns the compiled step of each phase from a step to the end, see `compile_train_step`."""
    phases = setup.phases(step)
    return {p: compile_train_step(setup, optimizer, where, p, **options) for p in phases}


def compile_train_step(
    setup: Setup,
    optimizer: Any,
    where: TrainState,
    phase: Phase,
    metrics: bool = True,
    compiler_options: Any = None,
) -> TrainStep:
    """Returns the compiled step of a phase; it consumes the state that it is given.

    Args:
      setup: of the run.
      optimizer: the update rule.
      where: the shapes of a state, and where it lies.
      phase: of the training.
      metrics: whether the step returns any; without there is less to compile.
      compiler_options: names and values that XLA's compiler takes.
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


def compiled_once(eval_step: Any, ledger: TimeLedger) -> EvalStep:
    """Returns a jitted step for batches of one shape; compiling, at the first, has its own time."""
    compiled = None

    def step(variables: Any, batch: Any) -> dict[str, jax.Array]:
        nonlocal compiled
        if compiled is None:
            with ledger.spend('compile'):
                compiled = eval_step.lower(variables, batch).compile()
        return compiled(variables, batch)

    return step


def feed(iterator: Iterator[Any], setup: Setup) -> Iterator[tuple[Any, Any]]:
    """Yields (batch on the devices, data position after it).

    The batch after it is fetched and sent by a thread meanwhile. Closing waits for that.
    """
    sharding = meshes.batch_sharding(setup.mesh)

    def following() -> tuple[Any, Any]:
        batch = meshes.put_batch(next(iterator), sharding)
        return batch, iterator.get_state()

    with ThreadPoolExecutor(1, thread_name_prefix='feed') as thread:
        ahead = thread.submit(following)
        while True:
            batch = ahead.result()
            ahead = thread.submit(following)
            yield batch


@dataclasses.dataclass
class Run:
    """The loop and what it talks to."""

    setup: Setup
    ledger: TimeLedger
    checkpoints: Checkpoints
    metrics: Metrics | None  # of the first process only
    progress: Progress
    preemption: Preemption
    eval_step: EvalStep
    workdir: Path
    broken: bool = False  # whether the state is one that must not be saved

    def loop(
        self,
        train_steps: Mapping[Phase, TrainStep],
        state: TrainState,
        iterator: pipeline.TrainIterator | pipeline.Paired,
    ) -> TrainState:
        """Trains to the last step, or until told to stop; what it returns is saved."""
        # Closed before the iterator is, whatever happens: a thread of it reads from there.
        with closing(feed(iterator, self.setup)) as batches:
            return self._loop(train_steps, state, batches, iterator.get_state())

    def _loop(
        self,
        train_steps: Mapping[Phase, TrainStep],
        state: TrainState,
        batches: Iterator[tuple[Any, Any]],
        data_state: Any,
    ) -> TrainState:
        config, setup = self.setup.config, self.setup
        log_every = setup.steps(config.log_every)
        save_every = setup.steps(config.checkpoint.every)
        eval_every = setup.steps(config.eval.every) if config.eval.every else 0
        profile = Profile(config.profile if agreement.is_main_process() else '', self.workdir)
        pending: list[tuple[int, dict[str, jax.Array]]] = []  # metrics not looked at yet
        self._start_clock()
        self.preemption.guard(True)
        step, last_saved = int(state.step), int(state.step)

        try:
            while step < setup.total_steps and not self.preemption.due():
                # Before the next step and after the save: who continues from here evaluates too.
                due = eval_every and step and step % eval_every == 0
                if due and not self._evaluate(state, step):
                    break
                profile.at(step)
                with self.ledger.spend('data'):
                    batch, data_state = next(batches)
                with self.ledger.spend('step'):
                    state, metrics = train_steps[setup.phase(step)](state, batch)
                    step += 1
                    pending.append((step, metrics))
                    if len(pending) > 1:  # let the host run one step ahead of the devices, not more
                        jax.block_until_ready(pending[-2])
                last = step == setup.total_steps
                if step % log_every == 0 or last:
                    self._log(pending)
                if step % save_every == 0 or last:
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
        values['learning_rate'] = float(self.setup.schedule()(step - 1))
        images = rate * self.setup.config.batch
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
            result |= self.setup.supernet.finish(self.setup, state.params, self.workdir)
        if self.metrics:
            write_json(self.workdir / 'result.json', result)
        return result

    def close(self, failed: bool = False) -> None:
        """Finishes writing; what cannot be written is an error unless the run has `failed`."""
        expected = Exception if failed else ()
        for part in filter(None, (self.progress, self.checkpoints, self.metrics)):
            with contextlib.suppress(expected):
                part.close()

"""Training of one config with several seeds in one process, with one compiled step.

  python -m cls.experiments.together --config RECIPE --seeds 0,1 --workdir DIR0 --workdir DIR1 ...

Set-up, data and compilation are shared. On GPU and TPU the seeds are an axis of the state
(`jax.vmap`). On CPU, XLA computes convolutions with a kernel for each seed many times slower than
one after the other; there the seeds take turns with the compiled step of one, in a thread for
each core, and convolutions share the cores. The run folders are those of separate runs,
whose numbers they have up to rounding. Their times are those of the whole process: `together` in
result.json is the number of seeds.

Only new runs on one device are trained together, with data that the device holds. A run that has
begun continues by itself, see cls.experiments.sweep.
"""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cls import BEGAN, cli, evaluate, programs, registration, signals, train
from cls.cli import Parser, run
from cls.config import load as configs
from cls.config import runs
from cls.distributed.preemption import Preemption
from cls.errors import UserError, refuse
from cls.feed import Fed, Resident
from cls.run import executables, same_data
from cls.run.environment import start
from cls.run.goodput import FILE, TimeLedger, written
from cls.run.telemetry import Metrics, Progress, write_json
from cls.run.workdir import open_run
from cls.setup import Setup, abstract_state, set_up
from cls.steps import sharding as meshes
from cls.steps.phases import Phase
from cls.steps.resident import make_resident_steps
from cls.steps.schedule import PLATEAU
from cls.steps.state import TrainState
from cls.steps.train_step import make_train_step
from cls.trainer import MOST_PENDING, Steps, Trainer, lazy_jit

PROG = 'python -m cls.experiments.together'


@dataclasses.dataclass
class Lane(Trainer):
    """The run of one seed: its output, evaluations and checkpoints."""

    batches: Any = None
    pending: list[Steps] = dataclasses.field(default_factory=list)
    failure: str = ''  # the reason why the run has ended early

    def begin(self) -> None:
        """Starts the clock of the images per second."""
        self._last_saved, self._scale = 0, 1.0  # the scale is of plateaus, refused by `check`
        self._start_clock()

    def count(self, step: int) -> int:
        """Returns the steps until the loop has something else to do, at most those of a call."""
        return min(self.batches.most, self._until_event(step))

    def note(self, step: int, count: int, metrics: dict[str, jax.Array]) -> None:
        """Logs the metrics of `count` steps from `step` on."""
        self.pending.append((step + 1, count, metrics))
        self._log(self.pending, step + count)
        if len(self.pending) > MOST_PENDING:
            self._fetch(self.pending, step + count)

    def assess(self, state: TrainState, step: int, data_state: Any) -> None:
        """Evaluates, and keeps the checkpoint if it is the best."""
        if self._evaluate(state, step):
            self._choose(state, step, data_state, self.pending)

    def save(self, state: TrainState, step: int, data_state: Any) -> None:
        """Saves a checkpoint, unless an evaluation has saved this step as the best."""
        if self._last_saved < step:
            self._save(state, step, data_state, self.pending)


class Threads:
    """The states of all seeds, trained in turn by one compiled step, in a thread for each core."""

    def __init__(self, setup: Setup, states: Sequence[TrainState], optimizer: Any, iterator: Any):
        shapes, _ = setup.new_state_shapes()
        where = abstract_state(shapes, setup.mesh)
        self._steps = programs.compile_train_steps(setup, optimizer, where, 0, iterator)
        shardings = jax.tree.map(lambda x: x.sharding, where)
        self._states = [meshes.put(state, shardings) for state in states]
        self._pool = ThreadPoolExecutor(min(len(states), _cores()))

    def advance(self, phase: Phase, fed: Sequence[Fed]) -> list[dict[str, jax.Array]]:
        def one(lane: int) -> dict[str, jax.Array]:
            state, metrics = self._steps[phase](self._states[lane], fed[lane].batch)
            self._states[lane] = state
            return jax.block_until_ready(metrics)

        return list(self._pool.map(one, range(len(self._states))))

    def state(self, lane: int) -> TrainState:
        """Returns the state of a seed."""
        return self._states[lane]

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()


class Stacked:
    """The states of all seeds as one, trained by one step with an axis of seeds."""

    def __init__(self, setup: Setup, states: Sequence[TrainState], optimizer: Any, iterator: Any):
        self._setup, self._optimizer, self._iterator = setup, optimizer, iterator
        self._state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        self._count = len(states)
        self._step = functools.cache(self._make_step)

    def _make_step(self, phase: Phase) -> Callable[..., Any]:
        setup, sharding = self._setup, meshes.batch_sharding(self._setup.mesh)
        recipe = dataclasses.replace(setup.recipe, freeze_bn=phase.freeze_bn)
        step = make_train_step(setup.model, self._optimizer, recipe, sharding)
        table = self._iterator.table(phase.size)
        steps = make_resident_steps(step, table.pad, table.border, sharding)
        axes = (0, {'table': None, 'plan': 0, 'count': None})
        return jax.jit(jax.vmap(steps, in_axes=axes), donate_argnums=0)

    def advance(self, phase: Phase, fed: Sequence[Fed]) -> list[dict[str, jax.Array]]:
        plans = jax.tree.map(lambda *rows: jnp.stack(rows), *(one.batch['plan'] for one in fed))
        batch = fed[0].batch | {'plan': plans}
        self._state, metrics = self._step(phase)(self._state, batch)
        return [jax.tree.map(lambda x, i=i: x[i], metrics) for i in range(self._count)]

    def state(self, lane: int) -> TrainState:
        """Returns the state of a seed."""
        return jax.tree.map(lambda x: x[lane], self._state)

    def close(self) -> None:
        """Does nothing."""


def _cores() -> int:
    affinity = getattr(os, 'sched_getaffinity', None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def check(setup: Setup, stacked: bool | None = None) -> None:
    """Raises UserError for a config whose seeds cannot be trained together.

    Args:
      setup: of one of the seeds.
      stacked: whether the seeds are an axis of the state; None: not on CPU.
    """
    stacked = on_accelerator() if stacked is None else stacked
    why = {
        'config.eval.validation is a part of the training images, another one for each seed; '
        'expected a split': stacked and bool(setup.data.held.fraction),
        'it trains a supernet': setup.supernet is not None,
        'config.init has weights to start from': bool(setup.init.source),
        'config.profile is set': setup.run.profile[0] >= 0,
        'config.eval.patience ends each of them at its own step': setup.run.patience > 0,
        'config.duration is a time': setup.time_limit is not None,
        'config.distill.teacher is set': bool(setup.distill.teacher),
        'the rates of config.schedule.name=plateau differ': setup.schedule.name == PLATEAU,
        'config.log.to has services': bool(setup.log.services),
        'config.log.histograms_every is set': setup.log.histograms_every > 0,
        'its data do not fit on the device: expected images in memory without resized crops, at '
        'most 256 MiB': setup.supernet is None and train.resident_batches(setup) is None,
    }
    refuse(f'seeds cannot be trained together: {text}.' for text, holds in why.items() if holds)


def on_accelerator() -> bool:
    """Whether this process computes on a GPU or TPU."""
    return jax.default_backend() != 'cpu'


def _setup_of(setup: Setup, seed: int, config: Any) -> Setup:
    """Returns the setup of a seed; only images that are held out by the seed are read again."""
    if setup.data.held.fraction:
        return set_up(config, jax.devices()[:1])
    return dataclasses.replace(
        setup,
        seed=seed,
        config=runs.run_config(config),
        data=dataclasses.replace(setup.data, seed=seed),
    )


def job(
    config: Any,
    folders: Mapping[int, Path],
    began: float | None = None,
    stacked: bool | None = None,
) -> dict[int, str]:
    """Trains new runs of a config with several seeds; returns the reasons of those that failed.

    A seed whose numbers are no longer finite ends alone.

    Args:
      config: the config of the runs.
      folders: seed -> run folder.
      began: start of the program, of time.perf_counter; None: now.
      stacked: whether the seeds are an axis of the state; None: not on CPU.

    Raises UserError for mistakes and for folders that are in use, or that have begun.
    """
    ledger = TimeLedger(began)
    text = configs.to_json(config)
    all_configs = {seed: configs.from_json(text, [('seed', str(seed))]) for seed in folders}
    setup = set_up(next(iter(all_configs.values())), jax.devices()[:1])
    stacked = on_accelerator() if stacked is None else stacked
    check(setup, stacked)
    for folder in folders.values():
        if any((folder / 'checkpoints').glob('[0-9]*')) or (folder / 'result.json').exists():
            raise UserError(f'{folder} holds a run that has begun: train it by itself.')
    setups = {seed: _setup_of(setup, seed, one) for seed, one in all_configs.items()}
    with contextlib.ExitStack() as stack:
        preemption = stack.enter_context(Preemption())
        for seed, folder in folders.items():
            stack.enter_context(open_run(folder, setups[seed].config, setup.info.class_names))
            write_json(folder / same_data.FILE, train.identity(setups[seed]))
            stack.enter_context(written(ledger, folder / FILE))
        print(f'{len(folders)} seeds together: {", ".join(map(str, folders))}', flush=True)
        return _fit(setups, folders, ledger, preemption, stacked)


def _fit(
    setups: Mapping[int, Setup],
    folders: Mapping[int, Path],
    ledger: TimeLedger,
    preemption: Preemption,
    stacked: bool,
) -> dict[int, str]:
    first = next(iter(setups.values()))
    eval_step, lanes, states, optimizer = lazy_jit(first.compile_eval_step, ledger), [], [], None
    iterators = [train.resident_batches(setup) for setup in setups.values()]
    for (seed, setup), iterator in zip(setups.items(), iterators, strict=True):
        state, optimizer = setup.new_state()
        states.append(state)
        checkpoints = train.checkpoints_of(setup, folders[seed], train.identity(setup))
        metrics = Metrics(folders[seed], 0, setup.log)
        train.show_images(metrics, setup)
        lanes.append(
            Lane(
                setup=setup,
                ledger=ledger,
                checkpoints=checkpoints,
                metrics=metrics,
                progress=Progress(0, setup.total_steps, show=False),
                preemption=preemption,
                eval_step=eval_step,
                workdir=folders[seed],
                selection=train.selection_of(setup, folders[seed], checkpoints, 0),
                together=len(setups),
                batches=Resident(iterator, setup),  # pyright: ignore[reportArgumentType]
            )
        )
    with ledger.spend('compile'):
        form = (Stacked if stacked else Threads)(first, states, optimizer, iterators[0])
    try:
        _loop(lanes, form, first, ledger, preemption)
        return {lane.setup.seed: lane.failure for lane in lanes if lane.failure}
    finally:
        form.close()
        for lane in lanes:
            lane.close(failed=bool(lane.failure))


def _loop(
    lanes: Sequence[Lane],
    form: Threads | Stacked,
    setup: Setup,
    ledger: TimeLedger,
    preemption: Preemption,
) -> None:
    """Trains all seeds to the end, or until stopped; saves and evaluates."""
    spec, total, step, saved = setup.run, setup.total_steps, 0, 0
    ledger.switch('other')
    preemption.guard(True)
    for lane in lanes:
        lane.begin()
    while step < total and not preemption.due():
        if spec.eval_every and step and step % spec.eval_every == 0:
            at = {'step': step}
            _each(lanes, lambda i, lane: lane.assess(form.state(i), step, at))  # noqa: B023
            if preemption.due():
                break
        count = lanes[0].count(step)
        with ledger.spend('data'):
            fed = [lane.batches.take(count) for lane in lanes]
        with ledger.spend('step'):
            metrics = form.advance(setup.phases.at(step), fed)
        _each(lanes, lambda i, lane: lane.note(step, fed[i].count, metrics[i]))  # noqa: B023
        step += fed[0].count
        if all(lane.failure for lane in lanes):
            return
        if step % spec.save_every == 0 or step == total:
            _each(lanes, lambda i, lane: lane.save(form.state(i), step, fed[i].data))  # noqa: B023
            saved = step
    if saved < step < total:
        _each(lanes, lambda i, lane: lane.save(form.state(i), step, {'step': step}))
    preemption.guard(False)
    if step == total and not preemption.due():
        _each(lanes, lambda i, lane: _finish(lane, form.state(i)))


def _each(lanes: Sequence[Lane], function: Callable[[int, Lane], Any]) -> None:
    """Calls a function for each seed that has not failed; a UserError ends that seed."""
    for number, lane in enumerate(lanes):
        if lane.failure:
            continue
        try:
            function(number, lane)
        except UserError as error:
            lane.failure = str(error)


def _finish(lane: Lane, state: TrainState) -> None:
    result = lane.finish(state)
    if result is not None:
        print(f'seed {lane.setup.seed}: {evaluate.summary(result)}', flush=True)


# ------------------------------------------------------------------------------------------------
# The program
# ------------------------------------------------------------------------------------------------


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    flags.add_argument('--config', required=True, metavar='RECIPE[:ARM]')
    flags.add_argument('--workdir', action='append', type=Path, required=True, metavar='DIR')
    flags.add_argument('--seeds', required=True, metavar='N,N,...')
    return flags


def main() -> int:
    """Trains the seeds; returns the exit code."""
    cli.show_log()
    fields = [argument for argument in sys.argv[1:] if argument.startswith('--config.')]
    args = parser().parse_args([a for a in sys.argv[1:] if a not in fields])
    seeds = [int(seed) for seed in args.seeds.split(',')]
    # Read when oneDNN is loaded: seeds compute next to each other, each with its part of the cores.
    os.environ.setdefault('OMP_NUM_THREADS', str(max(_cores() // len(seeds), 1)))
    start()
    config = configs.load(args.config, configs.parse_overrides(fields))
    executables.enable(registration.files())
    failures = job(config, dict(zip(seeds, args.workdir, strict=True)), BEGAN)
    for seed, why in failures.items():
        print(f'error: seed {seed}: {why}', file=sys.stderr)
    return 2 if failures else signals.exit_code()


if __name__ == '__main__':
    run(main)

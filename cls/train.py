"""The training job: restore, compile, loop, evaluate, save.

A run can be killed at any time; the same call continues it from its newest checkpoint and ends in a
state that is bit-identical to that of an uninterrupted run.

May import: anything but ensemble, main, recipes, search, tools.
"""

import contextlib
import functools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cls import displays, distillation, programs
from cls.config import presets, runs
from cls.data import broken, datasets, iteration, pipeline, resident
from cls.distributed import agreement
from cls.distributed.preemption import Preemption
from cls.errors import UserError
from cls.feed import HostBatches, ResidentBatches, TrainBatches
from cls.run import same_data
from cls.run.best import Selection, Standing
from cls.run.checkpoint import Checkpoints
from cls.run.checkpoint_files import record_of
from cls.run.goodput import FILE, TimeLedger, load_record, written
from cls.run.interval import Interval
from cls.run.loggers import opening
from cls.run.loggers.service import Service
from cls.run.telemetry import Metrics, Progress, logged_rows, write_json
from cls.run.workdir import finished_result, open_run, saved_config, settle
from cls.setup import Setup, abstract_state, former_length, process, set_up
from cls.steps import sharding as meshes
from cls.steps.state import TrainState
from cls.storage import paths
from cls.trainer import Trainer, lazy_jit
from cls.weights import pretrained

FINISHED = (
    '{} holds the finished run of this config: nothing was trained. Another --workdir starts a new '
    'one.'
)


def job(config: ConfigDict, workdir: Path, began: float | None = None) -> dict[str, Any] | None:
    """Trains a config in a run folder, or continues its training.

    Returns the result, or None when stopped before the end. The time of the run starts at `began`,
    a value of time.perf_counter; None: now.

    Raises UserError, before anything is written, for mistakes in the config and for a folder with
    other content. Also raises the errors of `fit`.
    """
    ledger, run_config = TimeLedger(began), runs.run_config(config)
    # Process 0 reads the folder for all processes.
    result = agreement.on_first('folder', lambda: finished_result(workdir, run_config))
    if result is not None:
        agreement.print_once(FINISHED.format(workdir))
        return result
    # Mistakes in the config, and weights that do not fit, end here, before anything is written.
    begun = agreement.on_first('begun', lambda: any((workdir / 'checkpoints').glob('[0-9]*')))
    setup = agreement.on_all('set-up', lambda: set_up(config, begun=begun))
    data = agreement.on_all('data', lambda: identity(setup))
    same_data.check(workdir, data, begun, setup.data.allow_changed)
    teacher = agreement.on_all('teacher', lambda: distillation.teacher_of(setup))
    load = setup.init.source and not begun
    given = [agreement.on_all('init', lambda: initial_weights(setup))] if load else []
    described = presets.describe(config, setup.info.num_train, setup.info.num_classes)
    for line in (*described, *setup.notes()):
        agreement.print_once(line)
    with open_run(workdir, run_config, setup.info.class_names):
        if agreement.is_main_process():
            write_json(workdir / same_data.FILE, data)
        agreement.print_once(f'run folder: {workdir}')
        for line in opening.how_to_view(setup.log, workdir):
            agreement.print_once(line)
        agreement.print_once(evaluated_on(setup))
        # Handed over by `pop`: kept here, they would take memory for the whole run.
        result = fit(setup, workdir, given.pop if given else None, ledger, data, teacher)
    broken.report(setup.data.workers)
    return result


def identity(setup: Setup) -> same_data.Data:
    """Returns the identity of the data of a run, see cls.run.same_data."""
    assert setup.train is not None  # the setup is for training
    return datasets.identity(setup.train, setup.test, setup.validation)


def evaluated_on(setup: Setup) -> str:
    """Returns a line that describes the images of the evaluations."""
    watched, test = setup.watched, setup.test
    line = (
        f'{setup.kind(final=False)} figures are of {len(watched):,} images: {setup.data.name}, '
        f'split {watched.split!r}'
    )
    if setup.tested_once:
        line += f'; the {len(test):,} of split {test.split!r} are evaluated once, at the end'
    elif setup.validation is not None:
        line += ', and there are no other ones to test on'
    return line


def initial_weights(setup: Setup) -> Any:
    """Returns the variables of config.init, in host memory, see cls.weights.pretrained."""
    shape, names = setup.info.image_shape, setup.test.class_names
    return pretrained.load(setup.init, setup.model, shape, setup.seed, names)


def fit(
    setup: Setup,
    workdir: Path,
    initial: Callable[[], Any] | None = None,
    ledger: TimeLedger | None = None,
    data: same_data.Data | None = None,
    teacher: distillation.Loaded | None = None,
) -> dict[str, Any] | None:
    """Trains to the end and returns the result, or None when stopped before.

    A run without a checkpoint starts from the variables that `initial` returns, in host memory. If
    it is None, it starts from config.init, or from newly initialized variables.

    Every checkpoint stores `data`, see cls.run.same_data. `teacher` is the teacher; None: it is
    loaded, if the run has one.

    Writes checkpoints/, metrics.jsonl, time.json and tensorboard/ into workdir, and at the end
    result.json. Time is added to `ledger`, and to that of earlier processes of the run.

    Raises UserError for data that cannot be read and when the loss is no longer finite.
    """
    ledger, spent = ledger or TimeLedger(), load_record(workdir / FILE)
    ledger.continue_from(spent, spent)  # the rework is known after a checkpoint is read
    leader = agreement.is_main_process()
    with (
        Preemption() as preemption,
        written(ledger, workdir / FILE, leader),
        contextlib.ExitStack() as stack,
    ):
        # Shapes before arrays: a run that continues initializes no weights.
        shapes, optimizer = setup.new_state_shapes()
        where = abstract_state(shapes, setup.mesh)
        if line := setup.split_groups(shapes.batch_stats):
            agreement.print_once(line)
        iterator = batches(setup)
        if isinstance(iterator, HostBatches):
            check_shared_memory(iterator)
        saved = saved_config(workdir) if leader else None
        checkpoints = checkpoints_of(setup, workdir, data)
        state, record = _start(setup, where, checkpoints, iterator, initial)
        ledger.continue_from(record or {}, spent)
        step = int(state.step)
        _check_step(setup, workdir, step)
        if record is not None:
            agreement.print_once(f'continuing from step {step} of {setup.length}')
        if step and saved and (line := lengthened(setup, saved, step)):
            agreement.print_once(line)

        services = _open_services(setup, workdir, step, stack)
        if step < setup.total_steps:
            agreement.print_once(
                'compiling the training step: about a minute, much longer for large networks, '
                'a few seconds where it is in the cache'
            )
        with ledger.spend('compile'):
            more = step < setup.total_steps
            train_steps = {}
            if more:
                train_steps = programs.compile_train_steps(
                    setup, optimizer, where, step, iterator, teacher=teacher
                )

            # Devices wait for one another by far less than compilers may differ.
            agreement.gather('compiled', None)

        ledger.switch('other')
        metrics = Metrics(workdir, step, setup.log, services) if leader else None
        stack.pop_all()  # the services are closed by the trainer
        if metrics and not step:
            show_images(metrics, setup)
        limit = setup.time_limit
        trainer = Trainer(
            setup=setup,
            ledger=ledger,
            checkpoints=checkpoints,
            metrics=metrics,
            progress=Progress(step, setup.total_steps if limit is None else 0, show=leader),
            preemption=preemption,
            eval_step=lazy_jit(setup.compile_eval_step, ledger),
            workdir=workdir,
            selection=selection_of(setup, workdir, checkpoints, step),
            interval=Interval((record or {}).get('interval')),
            histograms=lambda phase: programs.compile_histograms(
                setup, where, phase, iterator, teacher
            ),
        )
        return trainer.run(train_steps, state, iterator)


def show_images(metrics: Metrics, setup: Setup) -> None:
    """Logs the first augmented training images, if config.log asks for them."""
    if setup.log.images and metrics.shows('images'):
        images = displays.augmented_images(setup, setup.log.images)
        metrics.show(lambda logger: logger.images(1, 'train/images', images))


def _open_services(
    setup: Setup, workdir: Path, step: int, stack: contextlib.ExitStack
) -> list[Service]:
    """Returns the loggers of services of process 0, () elsewhere, and prints how to look at them.

    They are closed with `stack`. Raises UserError if a new run cannot be opened there.
    """
    services: list[Service] = []

    def open_all() -> list[str]:
        fields = displays.fields(setup.config.fields)
        rows = logged_rows(workdir) if setup.log.services else []
        services.extend(opening.services(setup.log, workdir, step, fields, rows))
        return [line for service in services if (line := service.how_to_view())]

    for line in agreement.on_first('loggers', open_all):
        agreement.print_once(line)
    stack.callback(opening.close, services, failed=True)
    return services


def checkpoints_of(setup: Setup, workdir: Path, data: same_data.Data | None) -> Checkpoints:
    """Opens the checkpoints of a run, each with a record of its config, classes and data."""
    config, names = setup.config, setup.info.class_names
    # Once: after the first new checkpoint these files are those of this process.
    settle_once = functools.cache(lambda: settle(workdir, config, names))
    return Checkpoints(
        workdir / 'checkpoints',
        setup.run.keep,
        record=config.record(names, data),
        completed=lambda step: settle_once(),
    )


def selection_of(setup: Setup, workdir: Path, checkpoints: Checkpoints, step: int) -> Selection:
    """Returns the choice of the best checkpoint, as it stood at the checkpoint of a step."""
    folder, spec = workdir / 'checkpoints' / str(step), setup.run
    record = agreement.on_first('standing', lambda: record_of(folder).get('standing'))
    standing = Standing.read(spec.best, record)
    if record and record['metric'] != standing.metric:
        agreement.print_once(
            f'config.checkpoint.best was {record["metric"]!r} and is {spec.best!r}: the best '
            f'checkpoint is that of the evaluations from step {step} on'
        )
    return Selection(checkpoints, standing, spec.patience)


def _start(
    setup: Setup,
    where: TrainState,
    checkpoints: Checkpoints,
    iterator: TrainBatches,
    initial: Callable[[], Any] | None,
) -> tuple[TrainState, dict[str, Any] | None]:
    """Returns (the state that training starts from, the record of its time).

    The state is that of the newest checkpoint, and the iterator is set to its position. Without a
    checkpoint it is the state before the first step, and the record is None.
    """
    restored = checkpoints.restore(where)
    if restored is not None:
        state, data_state, record = restored
        iterator.set_state(data_state)
        return state, record
    variables = initial() if initial else None
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
    """Returns a line on the changed schedule of a run with a new length; '' for the same length.

    Args:
      setup: the setup of the run that continues.
      saved: the JSON text of its earlier config.
      step: the next step.
    """
    before = former_length(setup, saved)
    if before is None:
        former = str(paths.parse_json(saved).get('duration', setup.duration))
        line = f'config.duration was {former!r} and is {setup.duration!r}'
        return '' if former == setup.duration else line
    rates = [float(rate(step)) for rate in (before.learning_rate, setup.learning_rate)]
    return (
        f'config.duration was {before.duration!r} ({before.total_steps} steps) and is '
        f'{setup.duration!r} ({setup.total_steps} steps): from step {step} on the schedule, and '
        f'all that is in percent of the run, is that of the new length; the learning rate there '
        f'was {rates[0]:.6g} and is {rates[1]:.6g}.'
    )


def batches(setup: Setup) -> TrainBatches:
    """Returns this process's share of the endless training batches.

    They are taken from data on the devices if the data set is small, and else made on the host.
    """
    return resident_batches(setup) or train_batches(setup)


def train_batches(setup: Setup) -> HostBatches:
    """Returns this process's share of the endless training batches, made on the host.

    For a supernet, each has a second batch under 'valid', of the images to evaluate on.
    """
    assert setup.train is not None  # the setup is for training
    first = pipeline.train_batches(setup.train, **_batch_options(setup))
    if setup.supernet is None:
        return first
    second = pipeline.train_batches(setup.watched, **_batch_options(setup))
    return iteration.ZippedIterator(first, second)


def resident_batches(setup: Setup) -> ResidentBatches | None:
    """Returns the batches of `train_batches` for a small data set that devices can hold, or None.

    See `pipeline.resident_batches` for the data sets.
    """
    assert setup.train is not None  # the setup is for training
    first = pipeline.resident_batches(setup.train, **_batch_options(setup))
    if setup.supernet is None or first is None:
        return first
    second = pipeline.resident_batches(setup.watched, **_batch_options(setup))
    return resident.ZippedResident(first, second) if second else None


def _batch_options(setup: Setup) -> dict[str, Any]:
    return {
        'data': setup.data,
        'batch': setup.batch,
        'seed': setup.seed,
        'num_classes': setup.info.num_classes,
        'process': process(),
        'sizes': setup.phases.sizes,
    }


def check_shared_memory(iterator: HostBatches) -> None:
    """Warns, before compilation, if the workers of a machine will lack shared memory."""
    need, free = iteration.shared_memory(iterator), iteration.free_shared_memory()
    processes = agreement.gather('shared memory', (socket.gethostname(), need, free))
    for host in dict.fromkeys(host for host, _, _ in processes):
        needs = [need for name, need, _ in processes if name == host and need]
        free = min(
            (free for name, _, free in processes if name == host and free is not None), default=None
        )
        if text := iteration.missing_shared_memory(needs, free):
            agreement.print_once(f'warning: on {host}, {text}')
            return

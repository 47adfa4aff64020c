"""The compiled programs of a training: its steps and its histograms.

May import: distillation, feed, nn, run, setup, steps, trainer.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cls.distillation import Loaded, teacher_of
from cls.feed import ResidentBatches, TrainBatches, abstract_resident_batch
from cls.nn.cpu.lowering import for_cpu
from cls.run import executables
from cls.setup import Setup
from cls.steps import sharding as meshes
from cls.steps.histograms import make_histograms
from cls.steps.phases import Phase
from cls.steps.resident import make_resident_steps
from cls.steps.state import TrainState
from cls.steps.train_step import make_train_step
from cls.trainer import TrainStep


def abstract_batch(setup: Setup, pixels: int) -> dict[str, Any]:
    """Returns the shapes and shardings of a global training batch of square images."""
    size, sharding = setup.batch, meshes.batch_sharding(setup.mesh)
    shapes = {'image': ((size, pixels, pixels, setup.info.image_shape[2]), 'uint8')}
    assert setup.train is not None  # the setup is for training
    label = (size, *setup.train.label_shape), np.dtype(setup.train.label_dtype).name
    shapes |= {'label': label, 'mask': ((size,), 'bool')}
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }
    return batch | ({'valid': batch} if setup.supernet else {})


def compile_train_steps(
    setup: Setup,
    optimizer: Any,
    where: TrainState,
    step: int,
    iterator: TrainBatches,
    **options: Any,
) -> dict[Phase, TrainStep]:
    """Returns the compiled step of each phase from a step to the end, see `compile_train_step`."""
    phases = setup.phases.following(step)
    options['teacher'] = options.get('teacher') or teacher_of(setup)
    return {p: compile_train_step(setup, optimizer, where, p, iterator, **options) for p in phases}


def compile_train_step(
    setup: Setup,
    optimizer: Any,
    where: TrainState,
    phase: Phase,
    iterator: TrainBatches | None = None,
    metrics: bool = True,
    compiler_options: Any = None,
    teacher: Loaded | None = None,
    keep: bool = True,
) -> TrainStep:
    """Returns the compiled step of a phase; it donates the buffers of its input state.

    Args:
      setup: the setup of the run.
      optimizer: the update rule.
      where: the shapes and shardings of a state.
      phase: the phase of the training.
      iterator: the batches; with those of a resident data set one call makes several steps, see
        cls.steps.resident.
      metrics: whether the step returns metrics; without them compilation is faster.
      compiler_options: names and values for XLA's compiler.
      teacher: the teacher; None: it is loaded, if the run has one.
      keep: whether later processes may find the program, see cls.run.executables.
    """
    recipe = dataclasses.replace(setup.recipe, freeze_bn=phase.freeze_bn)
    teacher = teacher or teacher_of(setup)
    if teacher:
        recipe = dataclasses.replace(recipe, teacher=teacher.teacher)
    make = setup.supernet.make_train_step if setup.supernet else make_train_step
    step = make(setup.model, optimizer, recipe, meshes.batch_sharding(setup.mesh))
    batch = abstract_batch(setup, phase.size)
    if not metrics:
        step = _without_metrics(step)
    if isinstance(iterator, ResidentBatches):
        step = _resident(setup, step, iterator, phase)
        batch = abstract_resident_batch(setup, iterator, phase.size)
    if meshes.is_cpu(setup.mesh):
        step = _for_cpu(step)
    shardings = jax.tree.map(lambda x: x.sharding, where)
    compiled = executables.compiled(
        step,
        (where, batch, *((teacher.shapes,) if teacher else ())),
        compiler_options,
        keep,
        donate_argnums=0,
        out_shardings=(shardings, meshes.replicated(setup.mesh)),
    )
    return teacher.bound(compiled) if teacher else compiled


def compile_histograms(
    setup: Setup,
    where: TrainState,
    phase: Phase,
    iterator: TrainBatches,
    teacher: Loaded | None = None,
) -> Callable[[TrainState, Any], Any]:
    """Returns the compiled histograms of the first step of a call, see cls.steps.histograms.

    Args:
      setup: the setup of the run.
      where: the shapes and shardings of a state.
      phase: the phase of the training.
      iterator: the batches.
      teacher: the teacher, if the run has one.
    """
    recipe = dataclasses.replace(setup.recipe, freeze_bn=phase.freeze_bn)
    if teacher:
        recipe = dataclasses.replace(recipe, teacher=teacher.teacher)
    step = make_histograms(setup.model, recipe, meshes.batch_sharding(setup.mesh))
    batch = abstract_batch(setup, phase.size)
    if isinstance(iterator, ResidentBatches):
        steps = _resident(setup, step, iterator, phase)
        batch = abstract_resident_batch(setup, iterator, phase.size)

        def step(state: TrainState, batch: Any, *teacher: Any) -> Any:
            state, histograms = steps(state, batch | {'count': jnp.int32(1)}, *teacher)
            return state, jax.tree.map(lambda x: x[0], histograms)

    jitted = jax.jit(lambda *inputs: step(*inputs)[1], out_shardings=meshes.replicated(setup.mesh))
    if not teacher:
        return jitted.lower(where, batch).compile()
    return teacher.bound(jitted.lower(where, batch, teacher.variables).compile())


def _resident(
    setup: Setup, step: Callable[..., Any], iterator: ResidentBatches, phase: Phase
) -> Callable[..., Any]:
    """Returns a step on the batches of a resident data set, see cls.steps.resident."""
    table, sharding = iterator.table(phase.size), meshes.batch_sharding(setup.mesh)
    pad, border = table.pad, table.border  # not the table itself, see cls.run.executables

    def steps(state: Any, batch: Any, *teacher: Any) -> Any:
        def one(state: Any, batch: Any) -> Any:
            return step(state, batch, *teacher)

        return make_resident_steps(one, pad, border, sharding)(state, batch)

    return steps


def _for_cpu(step: Callable[..., Any]) -> Callable[..., Any]:
    def traced(*inputs: Any) -> Any:
        with for_cpu():
            return step(*inputs)

    return traced


def _without_metrics(step: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *inputs: (step(*inputs)[0], {})

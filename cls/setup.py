"""From a config to a `Setup`: devices, data, model and the specification of each folder.

This is the last module that uses a ConfigDict. Each specification reads and checks its own part of
the config; `set_up` reports all mistakes together, before anything is written.

May import: checks, config, data, errors, evaluation, models, nn, run, steps, weights.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cls import checks, models
from cls.config import defaults, durations, network, runs
from cls.config import load as configs
from cls.data import datasets, iteration, pipeline, splits
from cls.data.sources import Source
from cls.data.spec import DataSpec
from cls.errors import Mistakes, UserError, refuse
from cls.evaluation.protocols import EvalSpec
from cls.models.registry import abstract_variables, introspection
from cls.models.registry.init import init
from cls.nn import limits
from cls.run import executables
from cls.run.loggers import spec as loggers
from cls.run.loggers.spec import LogSpec
from cls.run.spec import RunSpec
from cls.run.telemetry import profile_steps
from cls.run.workdir import RunConfig
from cls.steps import multi_label, remat
from cls.steps import sharding as meshes
from cls.steps import supernet as supernets
from cls.steps.distill import DistillSpec
from cls.steps.optim import OptimSpec, make_optimizer
from cls.steps.phases import Phases
from cls.steps.schedule import PLATEAU, ScheduleSpec, check_name, make_schedule
from cls.steps.state import TrainState, abstract, new_state, new_state_shapes
from cls.steps.train_step import Recipe, make_eval_step, make_moments_step
from cls.weights.pretrained import InitSpec


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a job that do not depend on a training state.

    Attributes:
      config: the config of the run, as stored in its folder.
      init: the weights to start from.
      seed: the seed of all randomness.
      batch: examples of a training step, over all devices.
      duration: the length of the run, as in the config.
      total_steps: the same in steps; durations.UNKNOWN if it is a time.
      time_limit: the same as a time, in seconds; None: it is a number of steps.
      mesh: the mesh of the devices.
      train: the training images; None for a data set that is only for evaluation.
      validation: the images of config.eval.validation; None: that is not set, or the data set of an
        evaluation has no training images.
      test: the images of the evaluation at the end; `validation` if there are no other ones.
      info: numbers and names of the data.
      model: the network.
      data, optim, schedule, recipe, phases, eval, run, log: the specifications of the folders.
      supernet: the training of a search's supernet, see cls.steps.supernet.
    """

    config: RunConfig
    init: InitSpec
    seed: int
    batch: int
    duration: str
    total_steps: int
    mesh: Mesh
    train: Source | None
    test: Source
    validation: Source | None
    info: pipeline.Info
    model: nn.Module
    data: DataSpec
    optim: OptimSpec
    schedule: ScheduleSpec
    recipe: Recipe
    phases: Phases
    eval: EvalSpec
    run: RunSpec
    log: LogSpec
    supernet: supernets.Supernet | None = None
    time_limit: float | None = None

    @property
    def distill(self) -> DistillSpec:
        """The specification of the distillation."""
        return self.recipe.distill

    def steps(self, duration: str) -> int:
        """Returns a duration as a number of steps of this run."""
        total = self.total_steps if self.time_limit is None else None
        return durations.steps(
            duration, batch=self.batch, examples=self.info.num_train, total=total
        )

    def epoch(self, step: int) -> float:
        """Returns the epochs completed after a number of steps, rounded to four decimals."""
        return round(step * self.batch / self.info.num_train, 4)

    @property
    def length(self) -> str:
        """The length of the run for messages, '200' (steps) or '30 minutes'."""
        return str(self.total_steps) if self.time_limit is None else self.duration

    @property
    def microbatch(self) -> int:
        """Examples that a training step computes together, over all devices."""
        return self.batch // self.recipe.accumulate

    def eval_batch(self) -> int:
        """Returns the size of an evaluation batch, over all devices."""
        devices, wanted = self.mesh.size, self.eval.batch or self.microbatch
        return -(-wanted // devices) * devices  # padding is masked, so any size is possible

    @property
    def watched(self) -> Source:
        """The images that are evaluated during the training."""
        return self.test if self.validation is None else self.validation

    @property
    def tested_once(self) -> bool:
        """Whether `test` has other images than those evaluated during the training."""
        return self.test is not self.watched

    def kind(self, final: bool) -> str:
        """Returns 'test' or 'validation', for names of metrics.

        Without config.eval.validation it goes by the name of the split. With it, the images to test
        on are 'test' whatever they are called, as ImageNet's validation set.

        Args:
          final: whether the images are `test`, not `watched`.
        """
        if not self.data.validation:
            return self.test.split_kind
        other = self.tested_once if self.validation else datasets.has_test(self.data)
        return splits.TEST if final and other else splits.VALIDATION

    def eval_batches(self, final: bool = True) -> iteration.EvalBatches:
        """Returns this process's share of the evaluation batches, of `test` or of `watched`."""
        return pipeline.eval_batches(
            self.test if final else self.watched,
            self.data,
            batch=self.eval_batch(),
            num_classes=self.info.num_classes,
            process=process(),
        )

    def initial(self) -> Any:
        """Returns newly initialized variables of the model, in host memory."""
        size, _, channels = self.info.image_shape
        return init(self.model, self.seed, size, channels)

    def new_state(self, variables: Any = None) -> tuple[TrainState, Any]:
        """Returns (state before the first step, in host memory; the optimizer).

        Args:
          variables: variables of the model, in host memory; None: `initial`.
        """
        variables = self.initial() if variables is None else variables
        optimizer = self.optimizer(variables['params'])
        return new_state(variables, optimizer, self.seed, bool(self.recipe.ema)), optimizer

    def new_state_shapes(self) -> tuple[TrainState, Any]:
        """Returns (shapes and dtypes of `new_state`'s state, the optimizer)."""
        size, _, channels = self.info.image_shape
        variables = abstract_variables(self.model, size, channels)
        optimizer = self.optimizer(variables['params'])
        return new_state_shapes(variables, optimizer, bool(self.recipe.ema)), optimizer

    def optimizer(self, params: Any) -> Any:
        """Returns the update rule for parameters, or their shapes."""
        if self.supernet:
            return self.supernet.optimizer(self.gradient_transformation, params)
        return self.gradient_transformation(params)

    def gradient_transformation(self, params: Any, **changed: Any) -> optax.GradientTransformation:
        """Returns the Optax rule of config.optim for these parameters, with some fields changed."""
        spec, groups = dataclasses.replace(self.optim, **changed), {}
        size, _, channels = self.info.image_shape
        if spec.needs_head:
            groups['head'] = introspection.head(self.model, size, channels)
        if spec.layer_decay != 1:
            groups['layers'] = introspection.layers(self.model, size, channels)
        if spec.decay_mask == 'not_depthwise':
            groups['depthwise'] = introspection.depthwise(self.model, size, channels)
        on_plateau = self.schedule.name == PLATEAU
        return make_optimizer(spec, self.learning_rate, params, on_plateau=on_plateau, **groups)

    def notes(self) -> Iterator[str]:
        """Yields lines on the update rule for the start of the run."""
        yield from self.optim.notes()
        if self.optim.layer_decay != 1:
            size, _, channels = self.info.image_shape
            last = max(introspection.layers(self.model, size, channels).values())
            yield (
                f'layer decay: {last + 1} layers, with rates from '
                f'{self.optim.layer_decay**last:.3g} to 1 of the learning rate'
            )

    def split_groups(self, batch_stats: Any) -> str:
        """Returns a line on batch-norm groups split over devices, see cls.steps.sharding."""
        group = getattr(self.model, 'bn_group', 0)
        return meshes.split_groups(self.microbatch, self.mesh.size, group, batch_stats)

    @functools.cached_property
    def learning_rate(self) -> Callable[[Any], jax.Array]:
        """The learning rate as a function of the step."""
        return make_schedule(self.schedule)

    def eval_step(self) -> Callable[[Any, Any], dict[str, jax.Array]]:
        """Returns the jitted evaluation step."""
        return jax.jit(self._eval_function(), out_shardings=meshes.replicated(self.mesh))

    def compile_eval_step(self, variables: Any, batch: Any) -> Callable[[Any, Any], Any]:
        """Returns the evaluation step, compiled for arguments like these."""
        where = meshes.replicated(self.mesh)
        return compiled_like(self._eval_function(), (variables, batch), where)

    def _eval_function(self) -> Callable[[Any, Any], dict[str, jax.Array]]:
        if self.recipe.multi_label:
            return multi_label.make_eval_step(self.model, self.recipe.normalize)
        return make_eval_step(self.model, self.recipe)

    @functools.cached_property
    def moments_step(self) -> Callable[[Any, Any, int, jax.Array], Any]:
        """The jitted step that computes the moments of a batch, see cls.evaluation.precise_bn."""
        return jax.jit(
            make_moments_step(self.model, self.recipe, meshes.batch_sharding(self.mesh)),
            out_shardings=meshes.replicated(self.mesh),
        )


def process() -> tuple[int, int]:
    """Returns (index, count) of this process among those of the run."""
    return jax.process_index(), jax.process_count()


def compiled_like(function: Callable[..., Any], arguments: Any, out_shardings: Any) -> Any:
    """Returns a function, compiled for arguments like these arrays."""
    shapes = abstract(arguments, jax.tree.map(lambda x: x.sharding, arguments))
    return executables.compiled(function, shapes, out_shardings=out_shardings)


def abstract_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Returns the shapes, dtypes and shardings of a state on a mesh."""
    return abstract(state, meshes.state_shardings(state, mesh))


def former_length(setup: Setup, saved: str) -> Setup | None:
    """Returns a setup with the length and schedule of an earlier config; None if they are equal.

    Also None if one of the lengths is a time: the schedule does not depend on it.

    Args:
      setup: the setup of a run that continues.
      saved: the JSON text of its earlier config.
    """
    config = configs.from_json(saved)
    times = [setup.time_limit, durations.minutes(config.duration)]
    if config.duration == setup.duration or times != [None, None]:
        return None
    examples = setup.info.num_train
    total = durations.steps(config.duration, batch=setup.batch, examples=examples)
    to_steps = functools.partial(durations.steps, batch=setup.batch, examples=examples, total=total)
    schedule = ScheduleSpec.from_config(config, to_steps=to_steps, total=total)
    changed = {'duration': config.duration, 'total_steps': total, 'schedule': schedule}
    return dataclasses.replace(setup, **changed)


def set_up(
    config: ConfigDict,
    devices: list[Any] | None = None,
    classes: tuple[str, ...] | None = None,
    complete: bool = True,
    begun: bool = False,
    data_of: Setup | None = None,
) -> Setup:
    """Opens the data, builds the model and reads the complete config.

    Args:
      config: the config of the run.
      devices: the devices to compute on; None: all.
      classes: None for training. For evaluation, the names of the run's classes in the order of the
        model's outputs, () if they are unknown; the data set then needs no training split.
      complete: whether config.model describes the network; that of a search's trials lacks the
        genotype.
      begun: whether the run already has a checkpoint; earlier versions allowed a warm-up longer
        than the run, or a profile of steps beyond its end.
      data_of: a setup with the same config.data, whose data are used; None: they are opened.

    Raises UserError for all mistakes together.
    """
    mistakes, training = Mistakes(), classes is None
    wrong = defaults.mistakes(config)
    parts = _read(config, devices, training, wrong, mistakes)
    if wrong:
        raise mistakes.error()
    limits.limit_layers(config.limits.layers)
    opened = mistakes.attempt(_open, parts['data'], classes, data_of) if parts['data'] else None
    num_classes = opened['info'].num_classes if opened else 1
    model = mistakes.attempt(configs.create_model, config, num_classes)
    if opened is None or model is None or None in parts.values():
        raise mistakes.error()

    parts |= {**opened, 'model': model}
    if training:
        mistakes.attempt(checks.check_training_images, config, parts['train'])
    elif not classes and parts['train'] is None:
        mistakes.attempt(checks.check_classes, config, parts['test'], model)
    shapes = _check_network(config, parts, complete, mistakes)
    minutes = durations.minutes(config.duration)
    if minutes is not None:
        mistakes.attempt(checks.check_time, config, parts['model'])
        mistakes.refuse()
        parts['time_limit'] = float(60 * minutes)
    total = mistakes.attempt(checks.total_steps, config, parts['info'])
    if total is None:
        raise mistakes.error()
    parts |= _read_moments(config, parts, total, mistakes)
    if training and parts['log']:
        mistakes.attempt(checks.check_log, parts['log'], parts.get('supernet'))
    if training and not begun and parts['schedule'] and parts['run']:
        mistakes.attempt(checks.check_length, config, parts['schedule'], parts['run'])
    if training and parts['run']:
        mistakes.attempt(checks.check_choices, config, parts)
    if parts['phases']:
        mistakes.attempt(checks.check_sizes, config, parts)
    if shapes:
        mistakes.attempt(checks.check_frozen, config, parts, shapes)
    mistakes.refuse()
    return Setup(
        config=runs.run_config(config),
        init=InitSpec.from_config(config),
        seed=config.seed,
        batch=config.batch,
        duration=config.duration,
        total_steps=total,
        **parts,
    )


def refuse_mistaken(error: defaults.MistakenConfig) -> NoReturn:
    """Raises a UserError for invalid values in a config, together with all its other mistakes."""
    config, mistakes = error.config, Mistakes()
    if 'optim' in config:  # the config of one run
        _read(config, None, True, error.mistakes, mistakes)
        mistakes.refuse()
    raise error


def _read(
    config: ConfigDict,
    devices: list[Any] | None,
    training: bool,
    wrong: Mapping[str, str],
    mistakes: Mistakes,
) -> dict[str, Any]:
    """Returns the specifications that depend only on the config, None for an invalid one.

    Args:
      config: the config of the run.
      devices: the devices to compute on; None: all.
      training: whether the run trains.
      wrong: invalid values, by the names of their fields; the specifications of their groups are
        not read.
      mistakes: collects all mistakes.
    """
    mistaken = {name.partition('.')[0] for name in wrong}
    for sentence in wrong.values():
        mistakes.attempt(refuse, [sentence])

    def attempt(groups: str, function: Callable[..., Any], *args: Any) -> Any:
        return None if mistaken & {*groups.split()} else mistakes.attempt(function, *args)

    parts = {
        'mesh': attempt('mesh', lambda: meshes.make_mesh(config.mesh.fsdp, devices)),
        'data': attempt('data', DataSpec.from_config, config),
        'optim': attempt('optim', OptimSpec.from_config, config),
        'eval': attempt('eval', EvalSpec.from_config, config),
    }
    if parts['data'] and parts['eval']:
        attempt('data eval', parts['eval'].check_crop, parts['data'])
    attempt('schedule', check_name, config)
    attempt('remat', lambda: remat.check(config.remat))
    attempt('profile', lambda: profile_steps(config.profile))
    attempt('log', lambda: loggers.check(config.log.to))
    # Evaluation batches may have any size; precise batch norm uses training batches.
    if parts['mesh'] and parts['eval'] and (training or parts['eval'].precise_bn):
        attempt('batch accumulate model', checks.check_batch, config, parts['mesh'].size)
    if parts['data'] and training:
        repeats = parts['data'].check_repeats
        attempt('batch', lambda: repeats(config.batch, 'config.batch'))
    return parts


def _open(data: DataSpec, classes: tuple[str, ...] | None, data_of: Setup | None) -> dict[str, Any]:
    """Returns the images to train and to evaluate on, and their `Info`."""
    if data_of is not None:
        return {name: getattr(data_of, name) for name in ('train', 'validation', 'test', 'info')}
    names, train, validation = classes or (), None, None
    if classes is None:
        datasets.check_disjoint(data)
    if classes is None or datasets.has_training(data):
        train, validation = datasets.training(data, names)
    test = datasets.testing(data, validation, names)
    if data.multi_label and not test.multi_label:
        raise UserError(
            f'config.data.multi_label is True, but {data.name} has one label for each image: '
            'expected False.'
        )
    info = pipeline.info(train, test, data)
    return {'train': train, 'validation': validation, 'test': test, 'info': info}


def _check_network(
    config: ConfigDict, parts: dict[str, Any], complete: bool, mistakes: Mistakes
) -> Any:
    """Returns the shapes of the variables, {} for an incomplete model, None for an invalid one."""
    info, model, mesh = parts['info'], parts['model'], parts['mesh']
    mistakes.attempt(parts['data'].check_channels, info.image_shape[2])
    mistakes.attempt(checks.check_num_classes, config, info, model)
    size, _, channels = info.image_shape
    mistakes.attempt(network.check_memory, config, checks.hosts(mesh), size, channels)
    if models.origin(config.model.name):
        mistakes.attempt(models.check_logits, model, size, channels)
    if not complete:
        return {}
    return mistakes.attempt(network.variable_shapes, config, model, info.image_shape)


def _read_moments(
    config: ConfigDict, parts: dict[str, Any], total: int, mistakes: Mistakes
) -> dict[str, Any]:
    """Returns the specifications with times in steps, None for an invalid one."""
    info = parts['info']
    known = None if total == durations.UNKNOWN else total
    to_steps = functools.partial(
        durations.steps, batch=config.batch, examples=info.num_train, total=known
    )
    moments = {'to_steps': to_steps, 'total': total}
    result = {
        'schedule': mistakes.attempt(ScheduleSpec.from_config, config, **moments),
        'phases': mistakes.attempt(Phases.from_config, config, **moments),
        'run': mistakes.attempt(RunSpec.from_config, config, to_steps=to_steps),
        'log': mistakes.attempt(LogSpec.from_config, config, to_steps=to_steps),
    }
    counts = _class_counts(config, parts)
    recipe = functools.partial(Recipe.from_config, config, total, info.image_shape[2], counts)
    result['recipe'] = mistakes.attempt(recipe)
    if 'supernet' in config.get('search', {}):
        mistakes.attempt(checks.check_supernet, config)
        create = functools.partial(supernets.create, config, parts['model'])
        result['supernet'] = mistakes.attempt(create, info.image_shape, to_steps)
    return result


def _class_counts(config: ConfigDict, parts: dict[str, Any]) -> np.ndarray | None:
    """Returns the training images of each class, if the loss depends on them, or None."""
    if not config.loss.class_weights or parts['train'] is None:
        return None
    counts = parts['train'].class_counts()
    return np.pad(counts, (0, max(0, parts['model'].num_classes - len(counts))))

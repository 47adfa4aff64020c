"""What training and evaluation both start from: devices, data and net of a config.

May import: config, data, errors, evaluation, models, nn, run, steps.
"""

import dataclasses
import functools
import itertools
import math
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cls import models
from cls.config import defaults, durations
from cls.config import load as configs
from cls.data import datasets, pipeline, sources, transforms
from cls.errors import UserError
from cls.evaluation import protocols
from cls.models.registry import abstract_variables
from cls.models.registry import introspection as parts
from cls.models.registry.init import init
from cls.nn import limits, norm
from cls.run import telemetry
from cls.search import registry
from cls.search.supernets.base import Supernet
from cls.steps import optim, remat
from cls.steps import sharding as meshes
from cls.steps.state import TrainState, abstract, new_state, new_state_shapes
from cls.steps.train_step import Recipe, make_eval_step, make_moments_step


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training in which one compiled step serves."""

    size: int  # height and width of the training images
    freeze_bn: bool  # whether batch norms use, and leave, their running statistics


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything a job needs that is not yet state."""

    config: ConfigDict
    mesh: Mesh
    train: sources.Source | None  # None: a data set to evaluate on only
    test: sources.Source
    info: pipeline.Info
    model: nn.Module
    total_steps: int
    recipe: Recipe
    supernet: Supernet | None = None  # of a search that trains one

    def steps(self, duration: str) -> int:
        """Returns a duration of the config in steps."""
        return durations.steps(
            duration,
            batch=self.config.batch,
            examples=self.info.num_train,
            total=self.total_steps,
        )

    def eval_batch(self) -> int:
        """Returns the images of an evaluation batch, over all devices."""
        devices = self.mesh.size
        wanted = self.config.eval.batch or self.config.batch // self.config.accumulate
        return -(-wanted // devices) * devices  # padding is masked, so any size will do

    def test_batches(self) -> Any:
        """Returns this process's share of the evaluation batches."""
        return pipeline.eval_batches(
            self.test,
            self.config.data,
            batch=self.eval_batch(),
            num_classes=self.info.num_classes,
            process=process(),
        )

    def train_sizes(self) -> tuple[tuple[int, int], ...]:
        """Returns (step, pixels) pairs: from that step on the training images have that size."""
        if not self.config.progressive:
            return ((0, self.config.data.image_size),)
        return tuple((self.steps(moment), size) for moment, size in self.config.progressive)

    def phase(self, step: int) -> Phase:
        """Returns what the step that follows `step` others is compiled for."""
        size = [size for start, size in self.train_sizes() if start <= step][-1]
        moment = self.config.freeze_bn
        return Phase(size, bool(moment) and self.steps(moment) <= step)

    def phases(self, step: int) -> list[Phase]:
        """Returns the phases from `step` to the end of the run, each once."""
        borders = [start for start, _ in self.train_sizes()]
        borders += [self.steps(self.config.freeze_bn)] if self.config.freeze_bn else []
        starts = sorted({step, *(b for b in borders if step < b < self.total_steps)})
        return list(dict.fromkeys(map(self.phase, starts)))

    def initial(self) -> Any:
        """Returns fresh variables of the net, in host memory."""
        size, channels = self.info.image_shape[0], self.info.image_shape[2]
        return init(self.model, self.config.seed, size, channels)

    def head(self) -> frozenset[str]:
        """Returns the paths of the classifiers' variables, see models.registry.introspection."""
        return parts.head(self.model, self.info.image_shape[0], self.info.image_shape[2])

    def new_state(self, variables: Any = None) -> tuple[TrainState, Any]:
        """Returns (state before the first step, in host memory; the optimizer).

        Args:
          variables: of the net, in host memory; None: `initial`.
        """
        variables = self.initial() if variables is None else variables
        optimizer = self.optimizer(variables['params'])
        state = new_state(variables, optimizer, self.config.seed, bool(self.config.ema))
        return state, optimizer

    def new_state_shapes(self) -> tuple[TrainState, Any]:
        """Returns what `new_state` does, the shapes and dtypes alone; nothing is drawn."""
        size, _, channels = self.info.image_shape
        variables = abstract_variables(self.model, size, channels)
        optimizer = self.optimizer(variables['params'])
        return new_state_shapes(variables, optimizer, bool(self.config.ema)), optimizer

    def optimizer(self, params: Any) -> Any:
        """Returns the update rule for parameters, or their shapes."""
        return self.supernet.optimizer(self.rule, params) if self.supernet else self.rule(params)

    def rule(self, params: Any, **changed: Any) -> optax.GradientTransformation:
        """Returns the rule of config.optim, some of its fields changed, for these parameters."""
        config, (size, _, channels) = self.config.optim, self.info.image_shape
        config = ConfigDict(config.to_dict() | changed)
        options = {'head': self.head()} if config.body_lr_mult != 1 else {}
        if config.decay_mask == 'not_depthwise':
            options['depthwise'] = parts.depthwise(self.model, size, channels)
        return optim.optimizer(config, self.schedule(), params, **options)

    def schedule(self) -> Callable[[int], jax.Array]:
        """Returns the learning rate as a function of the step."""
        config = self.config
        return optim.schedule(
            config.schedule, config.optim.lr, to_steps=self.steps, total=self.total_steps
        )

    def eval_step(self) -> Callable[[Any, Any], dict[str, jax.Array]]:
        """Returns the jitted evaluation step."""
        return jax.jit(
            make_eval_step(self.model, self.recipe), out_shardings=meshes.replicated(self.mesh)
        )

    @functools.cached_property
    def moments_step(self) -> Callable[[Any, Any, int, jax.Array], Any]:
        """The jitted step that finds the moments of a batch, see cls.evaluation.precise_bn."""
        return jax.jit(
            make_moments_step(self.model, self.recipe), out_shardings=meshes.replicated(self.mesh)
        )


def process() -> tuple[int, int]:
    """Returns (index, count) of this process among those of the run."""
    return jax.process_index(), jax.process_count()


def set_up(
    config: ConfigDict,
    devices: list[jax.Device] | None = None,
    classes: tuple[str, ...] | None = None,
    complete: bool = True,
    begun: bool = False,
) -> Setup:
    """Opens the data, builds the net, and reads the rest of the config once, to find mistakes.

    Args:
      config: of the run.
      devices: to compute on; None: all.
      classes: None to train. To evaluate, the names of the run's classes in the order of its net's
        outputs, () if they are not known; the data set then needs no part to train on.
      complete: whether config.model describes the network; that of a search's trials lacks the
        genotype.
      begun: whether the run has a checkpoint already; an earlier version let it begin with a
        warm-up longer than itself, or a profile of steps beyond its end.

    Raises UserError for what does not fit together.
    """
    defaults.check(config)
    limits.limit_layers(config.limits.layers)
    mesh = meshes.make_mesh(config.mesh.fsdp, devices)
    _check_numbers(config, mesh.size)
    names, train = classes or (), None
    if classes is None or datasets.has_training(config.data):
        train = datasets.load(config.data, 'train', names)
    test = datasets.load(config.data, 'eval', names)
    info = pipeline.info(train, test, config.data)
    model = configs.create_model(config, info.num_classes)
    if models.origin(config.model.name):
        models.check_logits(model, info.image_shape[0], info.image_shape[2])
    _check_fit(config, info, model)
    if classes is None:
        _check_several(config, train)
        _check_batch(config, info)
    _check_images(config, info, config.data.image_size, mesh)
    shapes = _shapes(config, info, model) if complete else {}
    if classes == () and train is None:
        _check_classes(config, test, model)
    total = durations.steps(config.duration, batch=config.batch, examples=info.num_train)
    if total >= 2**31:
        raise UserError(
            f'config.duration is {config.duration!r}, {total:.3g} steps: expected fewer than 2**31.'
        )
    recipe = Recipe.of(config, total, info.image_shape[2])
    setup = Setup(config, mesh, train, test, info, model, total, recipe)
    if 'supernet' in config.get('search', {}):
        supernet = registry.create('supernet', config.search.supernet).prepared(setup)
        setup = dataclasses.replace(setup, supernet=supernet)
    every = {'log_every': config.log_every, 'checkpoint.every': config.checkpoint.every}
    every |= {'eval.every': config.eval.every} if config.eval.every else {}
    for name, duration in {'duration': config.duration, **every}.items():
        if setup.steps(duration) < 1:
            raise UserError(f'config.{name} is {duration!r}: expected more than nothing.')
    if classes is None and not begun:
        _check_length(setup)
    telemetry.profile_steps(config.profile)
    _check_training(setup, shapes)
    return setup


def _check_length(setup: Setup) -> None:
    """Raises UserError for what a run is too short for."""
    config, total = setup.config, setup.total_steps
    optim.check_warmup(config.schedule, to_steps=setup.steps, total=total)
    if telemetry.profile_steps(config.profile)[0] >= total:
        raise UserError(
            f'config.profile is {config.profile!r}: expected steps of the {total} of the run.'
        )


def _shapes(config: ConfigDict, info: pipeline.Info, model: nn.Module) -> Any:
    """Returns the shapes of a network's variables. Raises UserError if it cannot be built."""
    size, channels = info.image_shape[0], info.image_shape[2]
    try:
        shapes = abstract_variables(model, size, channels)
    except UserError:
        raise
    except Exception as error:  # of a module, Flax or JAX, for fields that mean nothing to them
        fields = ', '.join(f'{k}={v!r}' for k, v in config.model.items() if k != 'name')
        text = (str(error).splitlines() or [''])[0][:200]
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f'config.model: {config.model.name} with {fields} cannot take images of {size} x '
            f'{size} x {channels} ({type(error).__name__}: {text}; {Path(frame.filename).name}, '
            f'line {frame.lineno}): change these fields, or config.data.image_size.'
        ) from error
    empty = [path for path, x in jax.tree.leaves_with_path(shapes) if 0 in x.shape]
    if empty:
        raise UserError(
            f'config.model: {config.model.name} has parameters without elements '
            f'({jax.tree_util.keystr(empty[0], simple=True, separator="/")}): expected widths '
            'above 0.'
        )
    needed = 4 * sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    if needed > _memory():
        raise UserError(
            f'config.model: the parameters of {config.model.name} take {needed / 2**30:,.0f} GiB, '
            f'and this machine has {_memory() / 2**30:,.0f}: expected a smaller network.'
        )
    return shapes


def _check_images(config: ConfigDict, info: pipeline.Info, size: int, mesh: Mesh) -> None:
    """Raises UserError where the images of a batch alone, as bytes, do not fit into a host."""
    hosts = len({device.process_index for device in mesh.devices.flat})
    needed = config.batch * size**2 * info.image_shape[2] // hosts
    if needed > _memory():
        raise UserError(
            f'config.batch is {config.batch}: its images of {size} x {size} pixels take '
            f'{needed / 2**30:,.0f} GiB on each host, and this one has {_memory() / 2**30:,.0f}: '
            'choose a smaller batch, or smaller images.'
        )


def _memory() -> int:
    """Returns the bytes of this machine's memory."""
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _check_training(setup: Setup, shapes: Any) -> None:
    config = setup.config
    if config.freeze_bn:
        setup.steps(config.freeze_bn)
    _check_sizes(setup)
    remat.check(config.remat)
    if not (config.optim.freeze or config.freeze_bn or config.eval.precise_bn) or not shapes:
        rule = ConfigDict(config.optim.to_dict() | {'freeze': ''})  # of what, is not known here
        optim.optimizer(rule, setup.schedule(), params={})
        return
    optim.optimizer(config.optim, setup.schedule(), shapes['params'])
    pipeline.check_repeats(config.data, config.batch // config.accumulate)
    size, _, channels = setup.info.image_shape
    if norms := models.flax_norms(setup.model, size, channels):
        raise UserError(
            f'{config.model.name} has norms of Flax ({norms[0]}), which config.freeze_bn, '
            'config.eval.precise_bn and config.optim.freeze cannot hold: unset these, or use '
            'cls.nn.norm.BatchNorm.'
        )
    for field, value in {
        'freeze_bn': config.freeze_bn,
        'eval.precise_bn': config.eval.precise_bn,
    }.items():
        if value and not norm.kept(shapes.get('batch_stats', {}), lambda _: True):
            raise UserError(
                f'config.{field} is {value!r}, but {config.model.name} has no batch norms: '
                'unset it.'
            )


def _check_sizes(setup: Setup) -> None:
    pairs, size = setup.config.progressive, setup.info.image_shape[0]
    evaluated = setup.config.data.eval_size
    if evaluated not in (0, size):
        _check_size(setup, evaluated, f'config.data.eval_size is {evaluated}')
    if not pairs:
        return
    example = "for example (('0 steps', 128), ('50 percent', 192))."
    if not all(
        isinstance(pair, tuple) and len(pair) == 2 and type(pair[1]) is int and pair[1] > 0
        for pair in pairs
    ):
        raise UserError(
            f'config.progressive is {pairs!r}: expected pairs of a moment and a size in pixels, '
            + example
        )
    starts = [start for start, _ in setup.train_sizes()]
    if starts[0] != 0 or any(b <= a for a, b in itertools.pairwise(starts)):
        raise UserError(
            f'config.progressive begins its sizes at the steps {tuple(starts)}: expected the first '
            f'at 0 and the others later one by one, {example}'
        )
    for _, other in pairs:
        _check_images(setup.config, setup.info, other, setup.mesh)
        _check_size(setup, other, f'config.progressive has images of {other} pixels')


def _check_size(setup: Setup, other: int, what: str) -> None:
    """Raises UserError, which begins with `what`, if the network cannot take images of a size."""
    size, _, channels = setup.info.image_shape
    what = f'{what}, but {setup.config.model.name}'
    try:
        depends = parts.sized(setup.model, size, other, channels)
    except (TypeError, ValueError) as error:  # a window that is larger than what it slides on
        raise UserError(f'{what} cannot be applied to them: choose larger ones.') from error
    if depends:
        raise UserError(
            f'{what} has parameters that depend on the size '
            f'({", ".join(sorted(depends)[:3])}): unset it, or choose a net that averages over '
            'the image before its classifier.'
        )


def _check_fit(config: ConfigDict, info: pipeline.Info, model: nn.Module) -> None:
    transforms.train_crop(config.data)
    protocols.check(config)
    pipeline.check_repeats(config.data, config.batch)
    name, channels = config.data.name, info.image_shape[2]
    for field in ('mean', 'std'):
        count = len(config.data[field])
        if count not in (1, channels):
            raise UserError(
                f'config.data.{field} has {count} values, but the images of {name} have {channels} '
                'channel(s): expected one for each, or one for all.'
            )
    if model.num_classes < info.num_classes:
        raise UserError(
            f'config.model.num_classes is {model.num_classes}, but {name} has labels of '
            f'{info.num_classes} classes: expected at least that.'
        )


def _check_several(config: ConfigDict, train: sources.Source) -> None:
    """Raises UserError for training images of one class, of which every network is always right.

    A folder has one where its classes are further down than they are looked for, as images are
    taken at any depth.
    """
    if train.num_classes < 2:
        name = f', {train.class_names[0]!r}' if train.class_names else ''
        raise UserError(
            f'{config.data.name} has one class{name}: expected two or more to train on. If its '
            'folder has further ones, and these are the classes, give that folder.'
        )


def _check_batch(config: ConfigDict, info: pipeline.Info) -> None:
    kind, _, folder = config.data.name.partition(':')
    if config.batch > info.num_train:
        how = (
            f'; the arm finetune (configs/SYSTEM.py:finetune,folder={folder}) chooses it, the '
            'duration and the rates by the number of images'
            if kind == 'folder'
            else ''
        )
        raise UserError(
            f'config.batch is {config.batch}, but {config.data.name} has {info.num_train} training '
            f'images: expected at most as many{how}.'
        )


def _check_classes(config: ConfigDict, test: sources.Source, model: nn.Module) -> None:
    """Raises UserError where nothing says which outputs of a net a data set's classes are."""
    if test.num_classes != model.num_classes:
        raise UserError(
            f'{config.data.name} has {test.num_classes} classes and the net {model.num_classes}, '
            'and nothing says which of them these are: expected classes.json in the run folder, '
            'the list of the names of the classes in the order of the outputs of the net.'
        )


def _check_numbers(config: ConfigDict, devices: int) -> None:
    batch, parts = config.batch, config.accumulate
    if parts < 1 or batch < 1 or batch % (parts * devices):
        raise UserError(
            f'config.batch is {batch}: expected a multiple of {parts * devices} '
            f'({devices} devices x config.accumulate={parts}).'
        )
    group = config.model.get('bn_group', 0)
    if group and (batch // parts) % group:
        raise UserError(
            f'config.model.bn_group is {group}: expected a divisor of the {batch // parts} '
            'examples that are computed together (config.batch / config.accumulate).'
        )


def split_groups(setup: Setup, batch_stats: Any) -> str:
    """Returns a line on batch-norm groups that lie on several devices, '' if none does.

    Args:
      setup: of the run.
      batch_stats: of its net, or their shapes.
    """
    together = setup.config.batch // setup.config.accumulate
    share = together // setup.mesh.size
    group = getattr(setup.model, 'bn_group', 0) or together
    if share % group == 0 or not norm.kept(batch_stats, lambda _: True):
        return ''
    if group % share == 0:
        return (
            f'batch norm: groups of {group} examples lie on {group // share} devices each, which '
            f'sum their statistics in every norm; config.model.bn_group={share} would keep them on '
            'one.'
        )
    return (
        f'batch norm: groups of {group} examples (config.model.bn_group) and devices of {share} do '
        'not divide one another: devices send one another activations and compute some of them '
        'twice. Choose config.batch, or a number of devices, with which they do.'
    )


def abstract_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Returns the shapes and dtypes of a state, and where it lies on a mesh."""
    return abstract(state, meshes.state_shardings(state, mesh))

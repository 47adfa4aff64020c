"""What training and evaluation both start from: devices, data and net of a config."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cls import config as configs
from cls import durations, optim, telemetry
from cls import mesh as meshes
from cls.data import pipeline, sources, transforms
from cls.errors import UserError
from cls.models.init import init
from cls.state import TrainState, abstract, new_state
from cls.step import Recipe, make_eval_step


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything a job needs that is not yet state."""

    config: ConfigDict
    mesh: Mesh
    train: sources.Source
    test: sources.Source
    info: pipeline.Info
    model: nn.Module
    total_steps: int
    recipe: Recipe

    def steps(self, duration: str) -> int:
        """Returns a duration of the config in steps."""
        return durations.steps(
            duration,
            batch=self.config.batch,
            examples=self.info.num_train,
            total=self.total_steps,
        )

    def test_batches(self) -> Any:
        """Returns this process's share of the evaluation batches."""
        devices = self.mesh.size
        wanted = self.config.eval.batch or self.config.batch // self.config.accumulate
        return pipeline.eval_batches(
            self.test,
            self.config.data,
            batch=-(-wanted // devices) * devices,  # padding is masked, so any size will do
            num_classes=self.info.num_classes,
            process=process(),
        )

    def new_state(self) -> tuple[TrainState, Any]:
        """Returns (state before the first step, in host memory; the optimizer)."""
        size, channels = self.info.image_shape[0], self.info.image_shape[2]
        variables = init(self.model, self.config.seed, size, channels)
        schedule = self.schedule()
        optimizer = optim.optimizer(self.config.optim, schedule, variables['params'])
        state = new_state(variables, optimizer, self.config.seed, bool(self.config.ema))
        return state, optimizer

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


def process() -> tuple[int, int]:
    """Returns (index, count) of this process among those of the run."""
    return jax.process_index(), jax.process_count()


def set_up(config: ConfigDict, devices: list[jax.Device] | None = None) -> Setup:
    """Opens the data, builds the net, and reads the rest of the config once, to find mistakes.

    Raises UserError for what does not fit together.
    """
    mesh = meshes.make_mesh(config.mesh.fsdp, devices)
    _check_numbers(config, mesh.size)
    train, test = (sources.load(config.data, split) for split in ('train', 'eval'))
    info = pipeline.info(train, test, config.data)
    model = configs.create_model(config, info.num_classes)
    _check_fit(config, info, model)
    total = durations.steps(config.duration, batch=config.batch, examples=info.num_train)
    setup = Setup(config, mesh, train, test, info, model, total, Recipe.of(config, total))
    every = {'log_every': config.log_every, 'checkpoint.every': config.checkpoint.every}
    every |= {'eval.every': config.eval.every} if config.eval.every else {}
    for name, duration in {'duration': config.duration, **every}.items():
        if setup.steps(duration) < 1:
            raise UserError(f'config.{name} is {duration!r}: expected more than nothing.')
    telemetry.profile_steps(config.profile)
    optim.optimizer(config.optim, setup.schedule(), params={})
    return setup


def _check_fit(config: ConfigDict, info: pipeline.Info, model: nn.Module) -> None:
    transforms.train_crop(config.data)
    transforms.eval_crop(config.data)
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


def _check_numbers(config: ConfigDict, devices: int) -> None:
    if config.seed < 0:
        raise UserError(f'config.seed is {config.seed}: expected 0 or more.')
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


def abstract_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Returns the shapes and dtypes of a state, and where it lies on a mesh."""
    return abstract(state, meshes.state_shardings(state, mesh))

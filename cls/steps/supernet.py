"""The interface that a supernet fills: a network that contains a complete search space.

Its training differs from that of another network in the update rule, in the step and in the result.
cls.search.supernets fills the interface, and registers itself here when it is imported; nothing
below cls.search imports it.
"""

from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
from jax.sharding import NamedSharding

from cls.errors import UserError
from cls.steps.train_step import Recipe


class Supernet(Protocol):
    """The training of a supernet."""

    def optimizer(self, rule: Callable[..., Any], params: Any) -> Any:
        """Returns the optimizer that `make_train_step` takes; its `init(params)` is in the state.

        Args:
          rule: (params, **changed fields of config.optim) -> the Optax rule of config.optim.
          params: of the supernet, or their shapes.
        """
        ...

    def make_train_step(
        self, model: nn.Module, optimizer: Any, recipe: Recipe, batch_sharding: NamedSharding
    ) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
        """Returns train_step(state, batch) as cls.steps.train_step.make_train_step does.

        The batch has a second one under 'valid', as large, from which the architecture learns.
        """
        ...

    def finish(self, params: Any, workdir: Any) -> dict[str, Any]:
        """Writes the derived architecture into the run folder; returns its fields of the result."""
        ...


class Create(Protocol):
    """A function that reads config.search and returns the training that it describes."""

    def __call__(
        self,
        config: Any,
        model: nn.Module,
        image_shape: tuple[int, int, int],
        to_steps: Callable[[str], int],
    ) -> Supernet:
        """Returns the training of a supernet. Raises UserError for mistakes in the config.

        Args:
          config: of the run.
          model: the supernet.
          image_shape: height, width and channels of the images.
          to_steps: duration of the config -> steps.
        """
        ...


_registered: list[Create] = []


def register(create: Create) -> None:
    """Makes a function the one that `create` calls."""
    _registered[:] = [create]


def create(
    config: Any,
    model: nn.Module,
    image_shape: tuple[int, int, int],
    to_steps: Callable[[str], int],
) -> Supernet:
    """Returns the training of a supernet, see `Create`. Raises UserError as that does."""
    if not _registered:
        raise UserError(
            'the config has search.supernet, which nothing trains here: expected '
            '`import cls.search.supernets` before.'
        )
    return _registered[0](config, model, image_shape, to_steps)

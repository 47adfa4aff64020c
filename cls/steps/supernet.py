"""The interface for the training of a supernet: a network that contains a complete search space.

It differs from the training of another network in the update rule, the step and the result.
cls.search.supernets implements the interface, and registers itself here when it is imported; no
module below cls.search imports it.
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
          params: the parameters of the supernet, or their shapes.
        """
        ...

    def make_train_step(
        self, model: nn.Module, optimizer: Any, recipe: Recipe, batch_sharding: NamedSharding
    ) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
        """Returns train_step(state, batch) as cls.steps.train_step.make_train_step does.

        The batch has a second batch of the same size under 'valid', to train the architecture on.
        """
        ...

    def finish(self, params: Any, workdir: Any) -> dict[str, Any]:
        """Writes the derived architecture to the run folder; returns its fields of the result."""
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
          config: the config of the run.
          model: the supernet.
          image_shape: height, width and channels of the images.
          to_steps: duration in the config -> number of steps.
        """
        ...


_registered: list[Create] = []


def register(create: Create) -> None:
    """Registers the function that `create` calls."""
    _registered[:] = [create]


def create(
    config: Any,
    model: nn.Module,
    image_shape: tuple[int, int, int],
    to_steps: Callable[[str], int],
) -> Supernet:
    """Returns the training of a supernet. See `Create` for arguments and errors."""
    if not _registered:
        raise UserError(
            'the config has search.supernet, which nothing trains here: expected '
            '`import cls.search.supernets` before.'
        )
    return _registered[0](config, model, image_shape, to_steps)

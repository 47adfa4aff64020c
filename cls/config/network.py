"""Checks of the network of config.model: its shapes, and the memory for it and its images."""

import math
import os
import traceback
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from cls.errors import UserError
from cls.models.registry import abstract_variables, introspection


def check_memory(config: ConfigDict, hosts: int, size: int, channels: int) -> None:
    """Raises UserError if the uint8 images of a batch do not fit into the memory of a host."""
    needed = config.batch * size**2 * channels // hosts
    if needed > _memory():
        raise UserError(
            f'config.batch is {config.batch}: its images of {size} x {size} pixels take '
            f'{needed / 2**30:,.0f} GiB on each host, and this one has {_memory() / 2**30:,.0f}: '
            'choose a smaller batch, or smaller images.'
        )


def _memory() -> int:
    """Returns the size of this machine's memory in bytes."""
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def variable_shapes(config: ConfigDict, model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    """Returns the shapes of a network's variables. Raises UserError if it cannot be built."""
    size, _, channels = image_shape
    try:
        shapes = abstract_variables(model, size, channels)
    except UserError:
        raise
    except Exception as error:  # of a module, Flax or JAX, for invalid fields
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


def check_size(
    config: ConfigDict,
    model: nn.Module,
    image_shape: tuple[int, int, int],
    other: int,
    where: str,
) -> None:
    """Raises UserError, with a message that starts with `where`, for images of a wrong size."""
    size, _, channels = image_shape
    subject = f'{where}, but {config.model.name}'
    try:
        depends = introspection.sized(model, size, other, channels)
    except (TypeError, ValueError) as error:  # a window that is larger than its input
        raise UserError(f'{subject} cannot be applied to them: choose larger ones.') from error
    if depends:
        raise UserError(
            f'{subject} has parameters that depend on the size '
            f'({", ".join(sorted(depends)[:3])}): unset it, or choose a network that averages over '
            'the image before its classifier.'
        )

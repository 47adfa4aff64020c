"""The type that a network computes in."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from cls import models
from cls.config.load import DTYPES
from cls.errors import UserError, nearest


def dtype_name(dtype: Any) -> str | None:
    """Returns the name of a type, as 'bfloat16' of jnp.bfloat16. Raises UserError for others."""
    if dtype is None:
        return None
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in DTYPES:
        raise UserError(
            f'dtype is {dtype!r}: expected one of {", ".join(DTYPES)}.{nearest(name, DTYPES)}'
        )
    return name


def typed(module: nn.Module, dtype: str | None) -> nn.Module:
    """Returns a module that computes in a type; None: as it does."""
    if dtype is None:
        return module
    if 'dtype' not in models.fields(type(module)):
        if dtype == 'float32':
            return module
        raise UserError(
            f'{type(module).__name__} has no field dtype: it computes in float32, expected '
            'dtype=None.'
        )
    return module.clone(dtype=dtype)

"""Programs to compare a train step with: one of a file, and ours with the layers of flax.linen."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.errors import UserError
from cls.nn import expansion, norm
from cls.nn.cpu import conv as cpu_conv
from cls.nn.cpu import pool as cpu_pool

LINEN = 'linen'

# (devices, images on all devices, pixels) -> the step, with the shapes and shardings of its inputs.
Lower = Callable[[Sequence[Any], int, int], jax.stages.Lowered]


def read(name: str) -> Lower | str:
    """Returns the function `lower` of a Python file, or LINEN for LINEN.

    Raises UserError for a file that is missing, that raises, or that has no such function.
    """
    if name == LINEN:
        return LINEN
    file = Path(name)
    spec = importlib.util.spec_from_file_location('cls_against', file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UserError(f'--against is {file}: expected a Python file, or {LINEN}.')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f'--against {file}: {type(error).__name__}: {error}') from error
    if not callable(getattr(module, 'lower', None)):
        raise UserError(
            f'--against {file}: expected a function lower(devices, batch, pixels) in it that '
            'returns a jax.stages.Lowered.'
        )
    return module.lower


@contextlib.contextmanager
def linen() -> Iterator[None]:
    """A context with flax.linen's convolutions, norms and pools in place of those of cls.nn.

    Parameters and their names stay. A norm over groups of examples is flax's, mapped over them.
    """
    replaced = (
        (cpu_conv, 'conv', _conv),
        (cpu_pool, 'max_pool', nn.max_pool),
        (cpu_pool, 'sum_pool', _sum_pool),
        (norm, '_batch_norm', _batch_norm),
        (expansion, 'source', lambda out, groups: None),
    )
    ours = [getattr(module, name) for module, name, _ in replaced]
    for module, name, function in replaced:
        setattr(module, name, function)
    try:
        yield
    finally:
        for (module, name, _), function in zip(replaced, ours, strict=True):
            setattr(module, name, function)


def _conv(images, kernel, strides, pads, dilation=(1, 1), groups=1):
    layer = nn.Conv(
        kernel.shape[-1],
        kernel.shape[:2],
        strides,
        pads,
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=False,
        dtype=images.dtype,
    )
    return layer.apply({'params': {'kernel': kernel}}, images)


def _sum_pool(images, window, strides, pads):
    return nn.pooling.pool(images, 0.0, jax.lax.add, window, strides, pads)


def _batch_norm(x, scale, bias, guess, groups, epsilon, dtype):
    # With a momentum of 0, the new running statistics are those of the batch.
    layer = nn.BatchNorm(False, momentum=0.0, epsilon=epsilon, dtype=dtype)
    running = {'mean': guess, 'var': jnp.ones_like(guess)}
    variables = {'params': {'scale': scale, 'bias': bias}, 'batch_stats': running}

    def apply(x):
        out, updated = layer.apply(variables, x, mutable=['batch_stats'])
        return out, updated['batch_stats']['mean'], updated['batch_stats']['var']

    if groups == 1:
        out, mean, var = apply(x)
        return out, mean[None], var[None]
    out, mean, var = jax.vmap(apply)(x.reshape(groups, -1, *x.shape[1:]))
    return out.reshape(x.shape), mean, var

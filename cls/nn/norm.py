"""Normalisation: by the batch, whose numbers do not depend on how many devices share it, and by
neighbouring channels."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.nn import init


def local_response_norm(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> jax.Array:
    """Divides x (..., C) by (k + alpha * s) ** beta, s the sum of squares of near channels.

    Those are `size` (odd) channels around each one, fewer at the ends. Krizhevsky et al. 2012
    ("ImageNet classification with deep convolutional neural networks", section 3.3), whose values
    are the defaults. Caffe and PyTorch take k = 1 and the mean in place of the sum: their alpha is
    `size` times the one here. Computed in float32; the result has the type of x.
    """
    wide = x.astype(jnp.float32)
    around = [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)]
    squares = jnp.pad(jnp.square(wide), around)
    near = sum(squares[..., i : i + x.shape[-1]] for i in range(size))
    return (wide * (k + alpha * near) ** -beta).astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015, 1502.03167) over groups of examples.

    Statistics are taken over `group` consecutive examples of the global batch (0: all of it), in
    float32, however the batch is spread over devices: under `jit` a group that lies on several
    devices is reduced across them, one that lies on one device is not.

    Parameters `scale`, `bias` (C,), if `affine`, and running statistics `mean`, `var` (C,) in
    `batch_stats`, all float32. The running variance is the unbiased estimate, as PyTorch and
    TensorFlow keep it.

    A norm that has a variable `statistics` in the collection `kept` (see `kept`) uses and leaves
    its running statistics in training too. The plain moments of a training batch are sown into
    `moments`, as `mean` and `var` (C,), for whoever makes that collection mutable.

    Raises ValueError when the batch does not divide into groups.
    """

    train: bool
    momentum: float = (
        0.9  # of the running statistics: new = momentum * old + (1 - momentum) * batch
    )
    epsilon: float = 1e-5
    group: int = 0
    affine: bool = True  # False: neither scale nor bias
    dtype: Any = jnp.float32
    scale_init: Any = init.ones
    bias_init: Any = init.zeros
    mean_init: Any = init.zeros
    var_init: Any = init.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x (N, ..., C) over all axes but the last."""
        channels = x.shape[-1]
        running_mean = self.variable('batch_stats', 'mean', self.mean_init, None, (channels,))
        running_var = self.variable('batch_stats', 'var', self.var_init, None, (channels,))
        grouped = x
        if self.train and not self.has_variable('kept', 'statistics'):
            size = self.group or len(x)
            if len(x) % size:
                raise ValueError(f'batch of {len(x)} is not a multiple of the BN group, {size}')
            grouped = x.reshape(-1, size, *x.shape[1:]).astype(jnp.float32)
            axes = tuple(range(1, grouped.ndim - 1))
            mean = jnp.mean(grouped, axes, keepdims=True)
            var = jnp.mean(jnp.square(grouped - mean), axes, keepdims=True)
            if not self.is_initializing():
                count = grouped[0, ..., 0].size
                self._update(running_mean, jnp.mean(mean, 0))
                self._update(running_var, jnp.mean(var, 0) * (count / max(count - 1, 1)))
            if self.is_mutable_collection('moments'):
                self.sow('moments', 'mean', jnp.mean(mean, 0).reshape(-1))
                within, between = jnp.mean(var, 0), jnp.var(mean, 0)
                self.sow('moments', 'var', (within + between).reshape(-1))
        else:
            mean, var = running_mean.value, running_var.value
        scale, bias = 1.0, 0.0
        if self.affine:
            scale = self.param('scale', self.scale_init, (channels,), jnp.float32)
            bias = self.param('bias', self.bias_init, (channels,), jnp.float32)
        if init.only_shapes() and not self.train:
            return x.astype(self.dtype)
        out = _normalised(grouped, mean, var, scale, bias, self.epsilon)
        return out.reshape(x.shape).astype(self.dtype)

    def _update(self, running: nn.Variable, batch: jax.Array) -> None:
        batch = jax.lax.stop_gradient(batch.reshape(-1))
        running.value = self.momentum * running.value + (1 - self.momentum) * batch


# Jitted on its own, a layer of a shape seen before is not traced again; deep nets repeat theirs.
@functools.partial(jax.jit, static_argnums=5)
def _normalised(x, mean, var, scale, bias, epsilon):
    factor = jax.lax.rsqrt(var + epsilon) * scale
    return (x.astype(jnp.float32) - mean) * factor + bias


def batch_norm(model: nn.Module, train: bool, **fields: Any) -> Callable[..., BatchNorm]:
    """Returns BatchNorm with the settings of a model, to be called with a `name`.

    Args:
      model: has `bn_group` and `dtype`.
      train: whether to normalize by the statistics of the batch.
      **fields: other fields of BatchNorm, such as `momentum` and `epsilon`.
    """
    return functools.partial(BatchNorm, train, group=model.bn_group, dtype=model.dtype, **fields)


def is_norm(stats: Mapping[str, Any]) -> bool:
    """Whether a module's part of `batch_stats` is that of a BatchNorm."""
    return stats.keys() == {'mean', 'var'}


def kept(batch_stats: Any, keep: Callable[[tuple[str, ...]], bool]) -> dict[str, Any]:
    """Returns the collection `kept`, for the norms whose path satisfies `keep`.

    Handed to `model.apply` beside `batch_stats`, it makes these norms use, and leave, their running
    statistics while the rest of the net trains.
    """

    def find(stats, path):
        if is_norm(stats):
            return {'statistics': True} if keep(path) else {}
        modules = {name: below for name, below in stats.items() if isinstance(below, Mapping)}
        found = {name: find(below, (*path, name)) for name, below in modules.items()}
        return {name: below for name, below in found.items() if below}

    return find(batch_stats, ())

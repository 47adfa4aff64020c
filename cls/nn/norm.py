"""Batch normalization over groups of examples, and local response normalization."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.nn import by_group, expansion, folding, init
from cls.nn.cpu import native, native_norm
from cls.nn.cpu.lowering import choose, jitted


def local_response_norm(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> jax.Array:
    """Returns x / (k + alpha * s) ** beta, s the sum of squares over neighboring channels.

    Krizhevsky et al. 2012 ("ImageNet classification with deep convolutional neural networks",
    section 3.3), with their values as defaults. Caffe and PyTorch have k = 1 and the mean instead
    of the sum: their alpha is `size` times this one. Computed in float32.

    Args:
      x: (..., C).
      size: channels in the sum, odd: the channel itself and its neighbors, fewer at the ends.
      alpha: factor of the sum.
      beta: exponent.
      k: added to the sum.

    Returns:
      (..., C), of the type of x.
    """
    wide = x.astype(jnp.float32)
    around = [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)]
    squares = jnp.pad(jnp.square(wide), around)
    near = sum(squares[..., i : i + x.shape[-1]] for i in range(size))
    return (wide * (k + alpha * near) ** -beta).astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe and Szegedy 2015, 1502.03167) over groups of examples.

    Statistics are over `group` consecutive examples of the global batch (0: the whole batch), in
    float32. They do not depend on the number of devices: under `jit`, a group on several devices is
    reduced across them, and a group on one device is reduced there.

    Parameters are `scale` and `bias` (C,), if `affine`; running statistics `mean` and `var` (C,) in
    `batch_stats`; all float32. The running variance is the unbiased estimate, as in PyTorch and
    TensorFlow.

    With a variable `statistics` in the collection `kept` (see the function `kept`), running
    statistics are used and not updated in training too. If the collection `moments` is mutable, the
    moments `mean` and `var` (C,) of a training batch are sown into it.

    Raises ValueError if the batch is not a multiple of the group.
    """

    train: bool
    # Of the running statistics: new = momentum * old + (1 - momentum) * batch.
    momentum: float = 0.9
    epsilon: float = 1e-5
    group: int = 0
    affine: bool = True  # whether there are scale and bias
    dtype: Any = jnp.float32
    scale_init: Any = init.ones
    bias_init: Any = init.zeros
    mean_init: Any = init.zeros
    var_init: Any = init.ones

    @nn.compact
    def __call__(
        self, x: jax.Array, pool: Callable[[jax.Array], jax.Array] | None = None
    ) -> jax.Array:
        """Returns x (N, ..., C) normalized over all axes but the last.

        With `pool`, a maximum over windows, returns the pooled result. The pool is computed first,
        so that fewer pixels are normalized. The values are the same, because normalization is
        increasing once channels with a negative scale have changed their sign.
        """
        channels = x.shape[-1]
        running_mean = self.variable('batch_stats', 'mean', self.mean_init, None, (channels,))
        running_var = self.variable('batch_stats', 'var', self.var_init, None, (channels,))
        scale, bias = jnp.ones(channels), jnp.zeros(channels)
        if self.affine:
            scale = init.parameter(self, 'scale', self.scale_init, (channels,))
            bias = init.parameter(self, 'bias', self.bias_init, (channels,))
        if not self.train or self.has_variable('kept', 'statistics'):
            if init.only_shapes() and not self.train:
                return (pool(x) if pool else x).astype(self.dtype)
            mean, var = running_mean.value, running_var.value
            if folding.is_tracing() and self.dtype == x.dtype == jnp.float32:
                mean, var, scale, bias = (v.astype(x.dtype) for v in (mean, var, scale, bias))
                factor = jax.lax.rsqrt(var + self.epsilon) * scale
                out = folding.scale_and_shift(x, factor, bias - mean * factor)
                return pool(out) if pool else out
            if pool:
                sign = _sign(scale)
                x, mean, scale = pool(x * sign.astype(x.dtype)), mean * sign, scale * sign
            return _normalized(x, mean, var, scale, bias, self.epsilon, self.dtype)
        size = self.group or len(x)
        if len(x) % size:
            raise ValueError(f'batch of {len(x)} is not a multiple of the BN group, {size}')
        out, mean, var = self._by_batch(x, scale, bias, running_mean.value, len(x) // size, pool)
        if not self.is_initializing():
            count = x.size // channels // len(mean)
            self._update(running_mean, mean)
            self._update(running_var, var, count / max(count - 1, 1))
        if self.is_mutable_collection('moments'):
            self.sow('moments', 'mean', jnp.mean(mean, 0))
            self.sow('moments', 'var', jnp.mean(var, 0) + jnp.var(mean, 0))
        return out

    def _by_batch(self, x, scale, bias, guess, groups, pool) -> Any:
        """Returns the output, and the moments of the groups."""
        if pool is None:
            source = expansion.source(x, groups)
            if source is None:
                return _batch_norm(x, scale, bias, guess, groups, self.epsilon, self.dtype)
            *inputs, mesh = source
            return expansion.normalized(
                *inputs, scale, bias, groups, mesh, self.epsilon, self.dtype
            )
        sign = _sign(scale)
        x = x * sign.astype(x.dtype)
        moments_: Any = moments(x, guess * sign, groups)
        mean, var = moments_
        out = _normalized(pool(x), mean, var, scale * sign, bias, self.epsilon, self.dtype)
        return out, mean * sign, var

    def _update(self, running: nn.Variable, groups: jax.Array, factor: float = 1.0) -> None:
        groups = jax.lax.stop_gradient(groups)
        running.value = _running(running.value, groups, self.momentum, factor)


def _sign(scale):
    return jnp.where(scale < 0, -1.0, 1.0)


@functools.partial(jitted, static_argnames=('momentum', 'factor'))
def _running(old, groups, momentum, factor):
    """Returns running statistics (C,) after a batch with the statistics (G, C) of its groups."""

    def plain(old, groups):
        return momentum * old + (1 - momentum) * (factor * jnp.mean(groups, 0))

    own = functools.partial(native_norm.running, momentum=momentum, factor=factor)
    return native.instead(plain, own, old, groups)


# Jitted separately, a layer is traced only once for each shape; deep networks repeat shapes.
@functools.partial(jax.jit, static_argnames=('epsilon', 'dtype'))
def _normalized(x, mean, var, scale, bias, epsilon, dtype):
    """Returns x (N, ..., C) normalized by moments (G, C) of groups of consecutive examples."""
    factor = jax.lax.rsqrt(var.astype(jnp.float32) + epsilon) * scale
    return _scaled(x, mean, factor, bias, dtype)


def _scaled(x, mean, factor, bias, dtype):
    centered = x.astype(jnp.float32) - by_group.spread(mean, x)
    return (centered * by_group.spread(factor, x) + bias).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    guess: jax.Array,
    groups: int,
    epsilon: float,
    dtype: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns x normalized by the moments of its groups, the means and the variances.

    The gradient is the closed form: two sums over x and the gradient of the output, and one pass
    that writes the gradient of x. It also covers gradients of the moments, and can itself be
    differentiated (in reverse mode).

    Args:
      x: (N, ..., C).
      scale: (C,).
      bias: (C,).
      guess: (C,), expected means; no result depends on it but for rounding.
      groups: number G of groups of consecutive examples.
      epsilon: added to the variance.
      dtype: of the output.

    Returns:
      (N, ..., C) of `dtype`; means and (biased) variances (G, C), float32.
    """
    return _forward(x, scale, bias, guess, groups, epsilon, dtype)


def _batch_norm_forward(x, scale, bias, guess, groups, epsilon, dtype):
    out, mean, var = _forward(x, scale, bias, guess, groups, epsilon, dtype)
    return (out, mean, var), (x, scale, mean, var)


def _batch_norm_backward(groups, epsilon, dtype, residuals, grads):
    dx, dscale, dbias = _backward(*residuals, *grads, epsilon)
    return dx, dscale, dbias, jnp.zeros_like(dscale)


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


@functools.partial(jitted, static_argnames=('groups', 'epsilon', 'dtype'))
def _forward(x, scale, bias, guess, groups, epsilon, dtype):
    def plain(x, scale, guess):
        mean_and_var: Any = moments(x, guess, groups)
        mean, var = mean_and_var
        return mean, var, jax.lax.rsqrt(var + epsilon) * scale

    def own(x, scale, guess):
        return native_norm.statistics(x, scale, groups, epsilon)

    mean, var, factor = native.instead(plain, own, x, scale, guess)
    return _scaled(x, mean, factor, bias, dtype), mean, var


@functools.partial(jitted, static_argnames='epsilon')
def _backward(x, scale, mean, var, dout, dmean, dvar, epsilon):
    count = by_group.count(x, len(mean))
    factor, level, slope, dscale, dbias = _terms(dout, x, scale, mean, var, epsilon)
    level, slope = level + dmean / count, slope + 2 * dvar / count
    centered = x.astype(jnp.float32) - by_group.spread(mean, x)
    dx = dout.astype(jnp.float32) * by_group.spread(factor, x) + centered * by_group.spread(
        slope, x
    )
    return (dx + by_group.spread(level, x)).astype(x.dtype), dscale, dbias


def _terms(dout, x, scale, mean, var, epsilon):
    """Returns what the gradient of the output needs, from two sums over x.

    With a gradient of the output alone, the gradient of x is factor * dout + slope * (x - mean) +
    level.

    Args:
      dout: (N, ..., C), gradient of the output.
      x: (N, ..., C).
      scale: (C,).
      mean: (G, C).
      var: (G, C).
      epsilon: added to the variance.

    Returns:
      factor, level and slope (G, C); the gradients of scale and bias (C,); all float32.
    """

    def plain(dout, x, scale, mean, var):
        count, moved = by_group.count(x, len(mean)), x - by_group.spread(mean, x)
        first, second = (by_group.sums(v, len(mean)) for v in (dout, dout * moved))
        inverse = jax.lax.rsqrt(var + epsilon)
        factor = inverse * scale
        level = -factor * first / count
        slope = -factor * jnp.square(inverse) * second / count
        return factor, level, slope, jnp.sum(second * inverse, 0), jnp.sum(first, 0)

    own = functools.partial(native_norm.terms, epsilon=epsilon)
    dout, x = dout.astype(jnp.float32), x.astype(jnp.float32)
    return native.instead(plain, own, dout, x, scale, mean, var)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def moments(x: jax.Array, guess: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Returns means and (biased) variances (G, C) of groups of consecutive examples, float32.

    One pass over x sums about a shift, for each group the mean of a sample of its pixels. The
    variance is as exact as float32 allows, if the shift is within a few standard deviations of the
    mean.

    For bfloat16 on TPU the shift is `guess`: XLA then sums in the kernel of the convolution that
    makes x, and does not read x again. If the guess is R standard deviations from the mean, as it
    may be in the first steps of a training, the error of the variance is about 1e-7 R^2 of it. The
    rounding of x to bfloat16 alone changes the variance by up to 1e-6 R^2 of it, for a mean of R
    standard deviations.

    Args:
      x: (N, ..., C).
      guess: (C,), expected means.
      groups: number G of groups.
    """
    return _moments(x, guess, groups)


def _moments_forward(x, guess, groups):
    mean, var = _moments(x, guess, groups)
    return (mean, var), (x, mean)


def _moments_backward(groups, residuals, grads):
    (x, mean), (dmean, dvar) = residuals, grads
    count = by_group.count(x, groups)
    centered = x.astype(jnp.float32) - by_group.spread(mean, x)
    dx = by_group.spread(dmean / count, x) + centered * by_group.spread(2 * dvar / count, x)
    return dx.astype(x.dtype), jnp.zeros_like(mean[0])


moments.defvjp(_moments_forward, _moments_backward)


@functools.partial(jitted, static_argnames='groups')
def _moments(x, guess, groups):
    about_sample = functools.partial(_moments_about_sample, groups=groups)
    forms = {}
    if native.usable(x):
        forms['cpu'] = functools.partial(_native_moments, groups=groups)
    if x.dtype == jnp.bfloat16:
        forms['tpu'] = functools.partial(_moments_about, groups=groups)
    if not forms:
        return about_sample(x, guess)
    return choose(x, guess, **forms, default=about_sample)


def _native_moments(x, guess, groups):
    return native_norm.moments(x.astype(jnp.float32), groups)


def _moments_about_sample(x, guess, groups):
    # A row of each image: no device needs the example of another one. Of vectors all.
    sample = x[:, x.shape[1] // 2] if x.ndim > 2 else x
    shift = by_group.sums(sample.astype(jnp.float32), groups) / by_group.count(sample, groups)
    return _moments_about(x, shift, groups)


def _moments_about(x, shift, groups):
    """Returns the moments of groups, from sums about a shift (G, C) or (C,)."""
    first, second = (total / by_group.count(x, groups) for total in _sums(x, shift, groups))
    return shift + first, jnp.maximum(second - jnp.square(first), 0)


def _sums(x, shift, groups):
    """Returns the sums (G, C) of x - shift and of its square, with a shift (G, C) or (C,)."""
    moved = x.astype(jnp.float32) - by_group.spread(shift, x)
    return by_group.sums(moved, groups), by_group.sums(jnp.square(moved), groups)


def batch_norm(model: nn.Module, train: bool, **fields: Any) -> Callable[..., BatchNorm]:
    """Returns BatchNorm with the settings of a model, to be called with a `name`.

    Args:
      model: has `bn_group` and `dtype`.
      train: whether to normalize by the statistics of the batch.
      **fields: other fields of BatchNorm, such as `momentum` and `epsilon`.
    """
    return functools.partial(BatchNorm, train, group=model.bn_group, dtype=model.dtype, **fields)


def is_norm(stats: Mapping[str, Any]) -> bool:
    """Returns whether these are the `batch_stats` of a BatchNorm."""
    return stats.keys() == {'mean', 'var'}


def kept(batch_stats: Any, keep: Callable[[tuple[str, ...]], bool]) -> dict[str, Any]:
    """Returns the collection `kept` for `model.apply`, to freeze running statistics in training.

    Args:
      batch_stats: the statistics of the model, or their shapes.
      keep: whether the BatchNorm at a path, such as ('layer1', 'bn1'), uses its running statistics
        and does not update them.
    """

    def mark(stats, path):
        if is_norm(stats):
            return {'statistics': True} if keep(path) else {}
        modules = {name: below for name, below in stats.items() if isinstance(below, Mapping)}
        marked = {name: mark(below, (*path, name)) for name, below in modules.items()}
        return {name: below for name, below in marked.items() if below}

    return mark(batch_stats, ())

"""Channels that are weighed by what the whole image says."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate (Hu et al. 2018, 1709.01507, section 3; figure 1).

    The gates are computed from the channels' means over all pixels (squeeze) by two 1x1
    convolutions with biases, the first to `inner` channels (excitation). (N, H, W, C) -> the same.
    """

    inner: int
    conv: Callable[..., nn.Module]
    act: Callable[[jax.Array], jax.Array] = nn.relu
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
    names: tuple[str, str] = ('fc1', 'fc2')  # of the two convolutions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first, second = self.names
        s = jnp.mean(x, (1, 2), keepdims=True)
        s = self.act(self.conv(self.inner, 1, use_bias=True, name=first)(s))
        s = self.conv(x.shape[-1], 1, use_bias=True, name=second)(s)
        return x * self.gate(s)

"""Channel attention."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class SqueezeExcite(nn.Module):
    """A squeeze-and-excitation block: a gate for each channel (Hu et al. 2018, 1709.01507).

    Gates are computed from the means of the channels over all pixels (squeeze) by two 1x1
    convolutions with biases, the first to `inner` channels (excitation; section 3, figure 1).
    """

    inner: int
    conv: Callable[..., nn.Module]
    act: Callable[[jax.Array], jax.Array] = nn.relu
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
    names: tuple[str, str] = ('fc1', 'fc2')  # of the two convolutions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to the same shape."""
        first, second = self.names
        s = jnp.mean(x, (1, 2), keepdims=True)
        s = self.act(self.conv(self.inner, 1, use_bias=True, name=first)(s))
        s = self.conv(x.shape[-1], 1, use_bias=True, name=second)(s)
        return x * self.gate(s)

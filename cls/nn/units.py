"""Convolution, normalization and activation in their two usual orders."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from cls.nn.padding import Padding, Size


class ConvNorm(nn.Module):
    """Convolution, normalization, activation; submodules `conv` and `bn`."""

    features: int
    window: Size
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    strides: Size = 1
    padding: Padding = None
    groups: int = 1
    act: Callable[[jax.Array], jax.Array] | None = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features)."""
        arguments: dict[str, Any] = {'padding': self.padding, 'groups': self.groups}
        x = self.conv(self.features, self.window, self.strides, **arguments, name='conv')(x)
        x = self.norm(name='bn')(x)
        return x if self.act is None else self.act(x)


class NormConv(nn.Module):
    """Normalization, activation, convolution (He et al. 2016, 1603.05027); `bn` and `conv`."""

    features: int
    window: Size
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    strides: Size = 1
    padding: Padding = None
    groups: int = 1
    act: Callable[[jax.Array], jax.Array] | None = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the output (N, H', W', features) for x (N, H, W, C), and the convolution's input.

        The input, (N, H, W, C), is for shortcuts that begin after the activation.
        """
        x = self.norm(name='bn')(x)
        x = x if self.act is None else self.act(x)
        arguments: dict[str, Any] = {'padding': self.padding, 'groups': self.groups}
        y = self.conv(self.features, self.window, self.strides, **arguments, name='conv')(x)
        return y, x

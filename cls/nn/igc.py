"""The interleaved group convolution of IGCV1 (1707.02725) and IGCV2 (1804.06202)."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from cls.nn.shuffle import channel_shuffle


class InterleavedConv(nn.Module):
    """A dense convolution as a product of sparse ones, y = P W ... P W x; normalized, rectified.

    Grouped convolutions `conv1` (3x3), `conv2`, ... (1x1), each followed by a channel shuffle and
    nothing else: a group of the next convolution takes a channel from each group. If the numbers of
    channels in a group multiply to `features`, every output depends on every input by one path (the
    complementary condition of 1804.06202), and the shuffles together restore the order of channels.
    """

    features: int
    groups: Sequence[int]  # of each convolution
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    strides: int = 1
    act: Callable[[jax.Array], jax.Array] | None = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H / strides, W / strides, features), rounded up."""
        for i, groups in enumerate(self.groups, 1):
            window, strides = (3, self.strides) if i == 1 else (1, 1)
            x = self.conv(self.features, window, strides, groups=groups, name=f'conv{i}')(x)
            x = channel_shuffle(x, groups)
        x = self.norm(name='bn')(x)
        return x if self.act is None else self.act(x)

"""The pre-activation residual net of He et al. 2016 (1603.05027) in parts.

Nothing follows the sum of a unit; normalisation and rectifier stand before each convolution, and
once more before the classifier. Names are pytorchcv's, but for a prefix that `PYTORCHCV` adds:
stage1.unit1.conv1.bn, stage1.unit1.conv1.conv, stage1.unit1.identity_conv, post_activ, output.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from cls.nn import residual
from cls.nn.units import NormConv

# Of a unit: (features, window, strides) of each convolution.
Layers = tuple[tuple[int, int, int], ...]

# From the names here to those of pytorchcv.
PYTORCHCV = (
    (r'^(conv|bn)1\.', r'features.init_block.\1.'),
    (r'^post_activ\.', 'features.post_activ.bn.'),
    (r'^stage', 'features.stage'),
    (r'\.(conv\d\.(?:conv|bn)\.\w+)$', r'.body.\1'),
)
# The same of a net for CIFAR, in which no norm follows the first convolution.
PYTORCHCV_CIFAR = ((r'^conv1\.', 'features.init_block.'), *PYTORCHCV)


def basic(width: int, strides: int) -> Layers:
    """Two 3x3 convolutions."""
    return (width, 3, strides), (width, 3, 1)


def bottleneck(width: int, strides: int, stride_on_first: bool = False) -> Layers:
    """1x1, 3x3, 1x1 convolutions, the last to 4 * width channels."""
    first, second = (strides, 1) if stride_on_first else (1, strides)
    return (width, 1, first), (width, 3, second), (4 * width, 1, 1)


class PreActUnit(nn.Module):
    """x + f(x), f being normalised and rectified convolutions (figure 4e).

    Where the shape changes, x is projected by a 1x1 convolution after the first of the rectifiers.
    `act` is what comes before the convolutions but the first.
    """

    layers: Layers
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    act: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (width, window, strides), *others = self.layers
        unit = functools.partial(NormConv, conv=self.conv, norm=self.norm)
        y, activated = unit(width, window, strides=strides, name='conv1')(x)
        for i, (width, window, strides) in enumerate(others, 2):
            y, _ = unit(width, window, strides=strides, act=self.act, name=f'conv{i}')(y)
        if y.shape != x.shape:
            strides = max(strides for _, _, strides in self.layers)
            x = self.conv(y.shape[-1], 1, strides, name='identity_conv')(activated)
        return y + x


def stages(
    net: nn.Module,
    x: jax.Array,
    unit: Callable[..., nn.Module],
    widths: Sequence[Sequence[int]],
) -> jax.Array:
    """Units `stage1.unit1`, ...; the first of every stage but the first halves the resolution.

    Args:
      net: the module that this is a part of.
      x: (N, H, W, C).
      unit: (width, strides, name=).
      widths: of each unit of each stage.
    """
    for i, stage in enumerate(widths, 1):
        for j, width in enumerate(stage, 1):
            strides = 2 if i > 1 and j == 1 else 1
            x = unit(width, strides, name=f'stage{i}.unit{j}')(x)
        net.sow('intermediates', f'stage{i}', x)
    return x


def head(
    net: nn.Module, x: jax.Array, norm: Callable[..., nn.Module], dropout: Callable = lambda x: x
) -> jax.Array:
    """The last norm and rectifier, the mean, and a linear layer: see `residual.head`."""
    return residual.head(net, nn.relu(norm(name='post_activ')(x)), 'output', dropout)

"""Parts of the pre-activation residual network of He et al. 2016 (1603.05027).

Normalization and rectifier precede each convolution, and the classifier; nothing follows the sum of
a unit. Names are pytorchcv's without a prefix, added by `PYTORCHCV`: stage1.unit1.conv1.bn,
stage1.unit1.conv1.conv, stage1.unit1.identity_conv, post_activ, output.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from cls.nn import residual
from cls.nn.units import NormConv

# The (features, window, strides) of each convolution of a unit.
Layers = tuple[tuple[int, int, int], ...]

# From the names here to those of pytorchcv.
PYTORCHCV = (
    (r'^(conv|bn)1\.', r'features.init_block.\1.'),
    (r'^post_activ\.', 'features.post_activ.bn.'),
    (r'^stage', 'features.stage'),
    (r'\.(conv\d\.(?:conv|bn)\.\w+)$', r'.body.\1'),
)
# The same for a network for CIFAR, without normalization after the first convolution.
PYTORCHCV_CIFAR = ((r'^conv1\.', 'features.init_block.'), *PYTORCHCV)


def basic(width: int, strides: int) -> Layers:
    """Returns the layers of a unit of two 3x3 convolutions to `width` channels."""
    return (width, 3, strides), (width, 3, 1)


def bottleneck(width: int, strides: int, stride_on_first: bool = False) -> Layers:
    """Returns the layers of a unit of 1x1, 3x3 and 1x1 convolutions to 4 * width channels."""
    first, second = (strides, 1) if stride_on_first else (1, strides)
    return (width, 1, first), (width, 3, second), (4 * width, 1, 1)


class PreActUnit(nn.Module):
    """A pre-activation residual unit, x + f(x) (figure 4e).

    If the shape changes, the shortcut is a 1x1 convolution of x after the first rectifier. `act`
    precedes all convolutions of f except the first.
    """

    layers: Layers
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    act: Callable[[jax.Array], jax.Array] = nn.relu
    refine: residual.Refine | None = None  # of f(x), as attention

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features of the last layer)."""
        (width, window, strides), *others = self.layers
        unit = functools.partial(NormConv, conv=self.conv, norm=self.norm)
        y, activated = unit(width, window, strides=strides, name='conv1')(x)
        for i, (width, window, strides) in enumerate(others, 2):
            y, _ = unit(width, window, strides=strides, act=self.act, name=f'conv{i}')(y)
        y = self.refine(self, y) if self.refine else y
        if y.shape != x.shape:
            strides = max(strides for _, _, strides in self.layers)
            x = self.conv(y.shape[-1], 1, strides, name='identity_conv')(activated)
        return y + x


def stages(
    module: nn.Module,
    x: jax.Array,
    unit: Callable[..., nn.Module],
    widths: Sequence[Sequence[int]],
) -> jax.Array:
    """Returns x after all units, `stage1.unit1`, ....

    Every stage except the first begins with stride 2. Outputs are sown as `stage1`, ....

    Args:
      module: the network.
      x: (N, H, W, C).
      unit: constructor of a unit, (width, strides, name=).
      widths: widths of each unit of each stage.
    """
    for i, stage in enumerate(widths, 1):
        for j, width in enumerate(stage, 1):
            strides = 2 if i > 1 and j == 1 else 1
            x = unit(width, strides, name=f'stage{i}.unit{j}')(x)
        module.sow('intermediates', f'stage{i}', x)
    return x


def head(
    module: nn.Module, x: jax.Array, norm: Callable[..., nn.Module], dropout: Callable = lambda x: x
) -> jax.Array:
    """Returns `residual.head` after a last normalization and rectifier.

    Args:
      module: the network; has `num_classes` and `dtype`.
      x: (N, H, W, C).
      norm: constructor of normalizations.
      dropout: applied to the mean.
    """
    return residual.head(module, nn.relu(norm(name='post_activ')(x)), 'output', dropout)

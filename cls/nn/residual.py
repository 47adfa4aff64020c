"""The residual net of He et al. 2016 (1512.03385) in parts, for systems that change one of them.

Blocks end in a rectifier after the sum ('post-activation'). Names are torchvision's: conv1, bn1,
layer1.0.conv1, ..., downsample.0, fc.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.nn.dense import Dense
from cls.nn.padding import pair
from cls.nn.pool import max_pool

# (block, residual) -> what is added to the shortcut instead: attention, a random drop.
Refine = Callable[[nn.Module, jax.Array], jax.Array]

# From the names here to those of pytorchcv.
PYTORCHCV = (
    (r'^(conv|bn)1\.', r'features.init_block.conv.\1.'),
    (r'^fc\.', 'output.'),
    *((rf'^layer(\d)\.{i}\.', rf'features.stage\1.unit{i + 1}.') for i in range(36)),
    (r'\.(conv|bn)(\d)\.(\w+)$', r'.body.conv\2.\1.\3'),
    (r'\.downsample\.0\.', '.identity_conv.conv.'),
    (r'\.downsample\.1\.', '.identity_conv.bn.'),
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (figure 5, left) to `width` channels.

    `index` counts the blocks of the whole net from 0; `shortcut` and `refine` may depend on it.
    """

    width: int
    strides: int
    index: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut: Callable[[nn.Module, jax.Array], jax.Array]
    refine: Refine | None = None
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.width, 3, self.strides, name='conv1')(x)
        y = nn.relu(self.norm(name='bn1')(y))
        y = self.conv(self.width, 3, name='conv2')(y)
        y = self.norm(name='bn2')(y)
        y = self.refine(self, y) if self.refine else y
        return nn.relu(y + self.shortcut(self, x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions (figure 5, right) to `expansion * width` channels.

    The first two have `inner` channels (a number for each, or one for both; 0: `width`), the second
    `groups` groups; the stride lies on the second, or on the first with `stride_on_first` (the
    paper's form). Otherwise as BasicBlock.
    """

    width: int
    strides: int
    index: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut: Callable[[nn.Module, jax.Array], jax.Array]
    refine: Refine | None = None
    stride_on_first: bool = False
    inner: int | tuple[int, int] = 0
    groups: int = 1
    expansion: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        reduced, inner = pair(self.inner or self.width)
        first, second = (self.strides, 1) if self.stride_on_first else (1, self.strides)
        y = self.conv(reduced, 1, first, name='conv1')(x)
        y = nn.relu(self.norm(name='bn1')(y))
        y = self.conv(inner, 3, second, groups=self.groups, name='conv2')(y)
        y = nn.relu(self.norm(name='bn2')(y))
        y = self.conv(self.width * self.expansion, 1, name='conv3')(y)
        y = self.norm(name='bn3')(y)
        y = self.refine(self, y) if self.refine else y
        return nn.relu(y + self.shortcut(self, x))


class Projection(nn.Module):
    """Option B: a convolution, in the paper 1x1, where the shape changes."""

    features: int
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    window: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(self.features, self.window, self.strides, name='0')(x)
        return self.norm(name='1')(x)


def option_a(block: nn.Module, x: jax.Array) -> jax.Array:
    """Every strides-th pixel, with zero channels on both sides; no parameters."""
    new = block.width * block.expansion - x.shape[-1]
    x = x[:, :: block.strides, :: block.strides]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


def option_b(block: nn.Module, x: jax.Array) -> jax.Array:
    """The input itself, or its projection where the shape changes."""
    features = block.width * block.expansion
    if block.strides == 1 and x.shape[-1] == features:
        return x
    return Projection(features, block.strides, block.conv, block.norm, name='downsample')(x)


class Stage(nn.Module):
    """Blocks of one resolution; the first may halve it. `first` is its index in the net."""

    block: Callable[..., nn.Module]  # (width, strides, index, name=)
    size: int
    width: int
    strides: int
    first: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.size):
            strides = self.strides if i == 0 else 1
            x = self.block(self.width, strides, self.first + i, name=str(i))(x)
        return x


def stem(net: nn.Module, images: jax.Array, conv: Callable, norm: Callable, width: int):
    """7x7 convolution and 3x3 max pool, each with stride 2."""
    x = nn.relu(norm(name='bn1')(conv(width, 7, 2, name='conv1')(images)))
    x = max_pool(x, 3, 2, padding=1)
    net.sow('intermediates', 'stem', x)
    return x


def cifar_stem(net: nn.Module, images: jax.Array, conv: Callable, norm: Callable, width: int):
    """3x3 convolution (section 4.2)."""
    x = nn.relu(norm(name='bn1')(conv(width, 3, name='conv1')(images)))
    net.sow('intermediates', 'stem', x)
    return x


def stages(
    net: nn.Module,
    x: jax.Array,
    block: Callable[..., nn.Module],
    sizes: Sequence[int],
    widths: Sequence[int],
) -> jax.Array:
    """Stages `layer1`, ... of `sizes` blocks; each but the first halves the resolution."""
    for i, (size, width) in enumerate(zip(sizes, widths, strict=True), 1):
        strides, first = 1 if i == 1 else 2, sum(sizes[: i - 1])
        x = Stage(block, size, width, strides, first, name=f'layer{i}')(x)
        net.sow('intermediates', f'stage{i}', x)
    return x


def head(net: nn.Module, x: jax.Array, name: str = 'fc', dropout: Callable = lambda x: x):
    """The mean over all pixels, and a linear layer to `net.num_classes` float32 logits.

    Args:
      net: the module that this is a part of; has `num_classes` and `dtype`.
      x: (N, H, W, C).
      name: of the linear layer.
      dropout: applied to the mean.
    """
    x = jnp.mean(x, (1, 2))
    net.sow('intermediates', 'pre_logits', x)
    x = Dense(net.num_classes, dtype=net.dtype, name=name)(dropout(x))
    return x.astype(jnp.float32)

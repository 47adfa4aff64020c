"""Parts of the residual network of He et al. 2016 (1512.03385), for systems that change some.

Blocks end in a rectifier after the sum ('post-activation'). Names are torchvision's: conv1, bn1,
layer1.0.conv1, ..., downsample.0, fc.
"""

import functools
import re
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.nn.dense import Dense
from cls.nn.drop import path_of
from cls.nn.padding import pair
from cls.nn.pool import avg_pool, max_pool

# (block, residual) -> the residual with attention, or with paths dropped at random.
Refine = Callable[[nn.Module, jax.Array], jax.Array]
# The width of the blocks of a stage: one number, or one for each block.
Width = int | Sequence[int]


def _unit(match: re.Match[str]) -> str:
    """Returns pytorchcv's name of a block, counted from 1."""
    return f'features.stage{match[1]}.unit{int(match[2]) + 1}.'


# From the names here to those of pytorchcv.
PYTORCHCV = (
    (r'^(conv|bn)1\.', r'features.init_block.conv.\1.'),
    (r'^fc\.', 'output.'),
    (r'^layer(\d)\.(\d+)\.', _unit),
    (r'\.(conv|bn)(\d)\.(\w+)$', r'.body.conv\2.\1.\3'),
    (r'\.downsample\.0\.', '.identity_conv.conv.'),
    (r'\.downsample\.1\.', '.identity_conv.bn.'),
)
# The same for a network for CIFAR, with a stem one level less deep.
PYTORCHCV_CIFAR = ((r'^(conv|bn)1\.', r'features.init_block.\1.'), *PYTORCHCV)


class BasicBlock(nn.Module):
    """A residual block of two 3x3 convolutions to `width` channels (figure 5, left).

    `index` is the number of the block in the network, from 0; `shortcut` and `refine` may depend on
    it.
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
        """Maps (N, H, W, C) to (N, H / strides, W / strides, width), rounded up."""
        y = self.conv(self.width, 3, self.strides, name='conv1')(x)
        y = nn.relu(self.norm(name='bn1')(y))
        y = self.conv(self.width, 3, name='conv2')(y)
        y = self.norm(name='bn2')(y)
        y = self.refine(self, y) if self.refine else y
        return nn.relu(y + self.shortcut(self, x))


class Bottleneck(nn.Module):
    """A residual block of 1x1, 3x3, 1x1 convolutions to `expansion * width` channels.

    Figure 5, right. The first two convolutions have `inner` channels (one number, or one for each;
    0: `width`), the second has `groups` groups. The second has the stride, or, with
    `stride_on_first` (the form of the paper), the first. `index` is as in BasicBlock.
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
        """Maps (N, H, W, C) to (N, H / strides, W / strides, expansion * width), rounded up."""
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
    """The convolution of a shortcut that changes the shape (option B); 1x1 in the paper.

    `first` is the name of the convolution, a number; the norm has the next one.
    """

    features: int
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    window: int = 1
    first: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H / strides, W / strides, features), rounded up."""
        x = self.conv(self.features, self.window, self.strides, name=f'{self.first}')(x)
        return self.norm(name=f'{self.first + 1}')(x)


def dropping(rate: float, blocks: int, refine: Refine | None = None) -> Refine | None:
    """Returns `refine` followed by drop path of the residual, for blocks in training.

    Args:
      rate: of the last block; it grows linearly with the index of the block, from 0 in the first
        (timm's rule). At 0 the result is `refine`, and the program that of a network without it.
      blocks: the number of blocks of the network.
      refine: applied first; None: nothing is.
    """
    if not rate:
        return refine

    def refined(block: nn.Module, y: jax.Array) -> jax.Array:
        y = refine(block, y) if refine else y
        return path_of(block, y, rate * block.index / max(blocks - 1, 1))

    return refined


def option_a(block: nn.Module, x: jax.Array) -> jax.Array:
    """Returns every strides-th pixel of x (N, H, W, C), with channels of zeros on both sides."""
    new = block.width * block.expansion - x.shape[-1]
    x = x[:, :: block.strides, :: block.strides]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


def option_b(block: nn.Module, x: jax.Array) -> jax.Array:
    """Returns x (N, H, W, C), or its `Projection` if the block changes the shape."""
    features = block.width * block.expansion
    if block.strides == 1 and x.shape[-1] == features:
        return x
    return Projection(features, block.strides, block.conv, block.norm, name='downsample')(x)


def averaged(block: nn.Module, x: jax.Array) -> jax.Array:
    """Returns the shortcut of ResNet-D: option B with 2x2 means in place of the stride.

    He et al. 2019 (1812.01187), figure 2c. Odd sizes are rounded up.
    """
    features = block.width * block.expansion
    if block.strides == 1 and x.shape[-1] == features:
        return x
    x = avg_pool(x, 2, 2, 'SAME') if block.strides > 1 else x
    return Projection(features, 1, block.conv, block.norm, first=1, name='downsample')(x)


def each(width: Width, size: int) -> tuple[int, ...]:
    """Returns the width of each of `size` blocks of a stage."""
    return (width,) * size if isinstance(width, int) else tuple(width[:size])


class Stage(nn.Module):
    """Blocks of one resolution; only the first has the stride.

    `first` is the index of the first block in the network.
    """

    block: Callable[..., nn.Module]  # (width, strides, index, name=)
    size: int
    width: Width
    strides: int
    first: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to the output of the last block."""
        for i, width in enumerate(each(self.width, self.size)):
            strides = self.strides if i == 0 else 1
            x = self.block(width, strides, self.first + i, name=str(i))(x)
        return x


def stem(
    module: nn.Module,
    images: jax.Array,
    conv: Callable,
    norm: Callable,
    width: int,
    ceil_pool: bool = False,
) -> jax.Array:
    """Returns a 7x7 convolution and a 3x3 max pool of images, each with stride 2; sown as `stem`.

    Args:
      module: the network.
      images: (N, H, W, C).
      conv: constructor of convolutions.
      norm: constructor of normalizations.
      width: channels.
      ceil_pool: whether the pool overhangs the end (Caffe's), in place of a padding on each side.

    Returns:
      (N, H / 4, W / 4, width), rounded up twice.
    """
    edges = {'ceil_mode': True} if ceil_pool else {'padding': 1}
    pool = functools.partial(max_pool, window=3, strides=2, **edges)
    x = nn.relu(norm(name='bn1')(conv(width, 7, 2, name='conv1')(images), pool))
    module.sow('intermediates', 'stem', x)
    return x


def deep_stem(
    module: nn.Module, images: jax.Array, conv: Callable, norm: Callable, widths: Sequence[int]
) -> jax.Array:
    """Returns the stem of ResNet-C and -D: 3x3 convolutions in place of the 7x7 one.

    He et al. 2019 (1812.01187), figure 2b; the first has stride 2. Names are timm's, `conv1.0`,
    `conv1.1`, `conv1.3`, ...; the last norm is `bn1`. Arguments are those of `stem`, with the
    channels of each convolution.
    """
    x, pool = images, functools.partial(max_pool, window=3, strides=2, padding=1)
    for i, width in enumerate(widths):
        x = conv(width, 3, 1 if i else 2, name=f'conv1.{3 * i}')(x)
        if i < len(widths) - 1:
            x = nn.relu(norm(name=f'conv1.{3 * i + 1}')(x))
    x = nn.relu(norm(name='bn1')(x, pool))
    module.sow('intermediates', 'stem', x)
    return x


def cifar_stem(
    module: nn.Module, images: jax.Array, conv: Callable, norm: Callable, width: int
) -> jax.Array:
    """Returns a 3x3 convolution (N, H, W, width) of images (section 4.2); arguments as `stem`."""
    x = nn.relu(norm(name='bn1')(conv(width, 3, name='conv1')(images)))
    module.sow('intermediates', 'stem', x)
    return x


def stages(
    module: nn.Module,
    x: jax.Array,
    block: Callable[..., nn.Module],
    sizes: Sequence[int],
    widths: Sequence[Width],
) -> jax.Array:
    """Returns x after the stages `layer1`, ...; all except the first begin with stride 2.

    Outputs are sown as `stage1`, ....

    Args:
      module: the network.
      x: (N, H, W, C).
      block: constructor of a block, (width, strides, index, name=).
      sizes: blocks of each stage.
      widths: widths of the blocks of each stage.
    """
    for i, (size, width) in enumerate(zip(sizes, widths, strict=True), 1):
        strides, first = 1 if i == 1 else 2, sum(sizes[: i - 1])
        x = Stage(block, size, width, strides, first, name=f'layer{i}')(x)
        module.sow('intermediates', f'stage{i}', x)
    return x


def head(
    module: nn.Module, x: jax.Array, name: str = 'fc', dropout: Callable = lambda x: x
) -> jax.Array:
    """Returns float32 logits (N, num_classes): the mean over all pixels and a linear layer.

    The mean is sown as `pre_logits`.

    Args:
      module: the network; has `num_classes` and `dtype`.
      x: (N, H, W, C).
      name: name of the linear layer.
      dropout: applied to the mean.
    """
    x = jnp.mean(x, (1, 2))
    module.sow('intermediates', 'pre_logits', x)
    x = Dense(module.num_classes, dtype=module.dtype, name=name)(dropout(x))
    return x.astype(jnp.float32)

"""PolyNet: A Pursuit of Structural Diversity in Very Deep Networks (Zhang et al.; CVPR 2017).

https://arxiv.org/abs/1611.05725

What is new: PolyInception modules. Where Inception-ResNet-v2 has residual units (I + F) x, of an
Inception block F, these have more terms of a polynomial (section 3.1):

  poly-3    I + F + F F + F F F         one block, used three times
  mpoly-3   I + F + G F + H G F         three blocks, one after the other
  3-way     I + F + G + H               three blocks side by side

A block of a chain begins with the rectified output of the one before. In a poly module the blocks
share their convolutions but for the last, and each has norms of its own (as in the release).

While training, each term of each example is dropped at random ('stochastic paths', section 4): the
chain goes on, its contribution does not count. In the release terms are multiplied by numbers that
fall in 39 equal steps from 1 at the first module to 0.7 at the last; these are taken for the
probabilities of survival, with which a term counts in evaluation. The paper speaks of a largest
drop of 0.25 and of dropping only when a net begins to overfit. Its residual scaling, by 0.3, is no
part of the release's graph; here the scale of a block's last norm begins at 0.3.

Agrees with: pretrainedmodels' polynet, the released Very Deep PolyNet; `polynet_mixed_b` is the net
of section 3.2 with the best stage B, three kinds of modules in turn, which no package has. The
paper says 92 million parameters where the release has 95.4.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import init, residual
from cls.nn.conv import Conv
from cls.nn.drop import drop_path
from cls.nn.norm import BatchNorm
from cls.nn.pool import max_pool
from cls.nn.units import ConvNorm

SYSTEM = System(
    name='PolyNet',
    title='PolyNet: A Pursuit of Structural Diversity in Very Deep Networks',
    venue='CVPR 2017',
    arxiv='1611.05725',
    top1=82.64,  # Very Deep PolyNet, multi-crop
    top5=96.55,
    headline='polynet',
    params=92,
)

# The paths of the Inception blocks of each stage: layers of (channels, window).
BLOCKS = {
    'a': (((32, 1), (48, 3), (64, 3)), ((32, 1), (32, 3)), ((32, 1),)),
    'b': (((128, 1), (160, (1, 7)), (192, (7, 1))), ((192, 1),)),
    'c': (((192, 1), (224, (1, 3)), (256, (3, 1))), ((192, 1),)),
}
# The paths behind stages a and b, beside a max pool; only the last layer has stride 2, unpadded.
REDUCTIONS = {
    'a': (((256, 1), (256, 3), (384, 3)), ((384, 3),)),
    'b': (((256, 1), (256, 3), (256, 3)), ((256, 1), (256, 3)), ((256, 1), (384, 3))),
}


class PolyInception(nn.Module):
    """A module named as in the paper: 'poly-N', 'mpoly-N' or 'N-way' of the blocks of a stage."""

    kind: str
    stage: str
    width: float  # factor of all channels
    survival: float  # probability that a term counts
    train: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        chained = self.kind.startswith(('poly-', 'mpoly-'))
        order = int(self.kind.split('-')[1 if chained else 0])
        inception = self.sharing_blocks() if self.kind.startswith('poly-') else self.block
        total = before = x
        for i in range(order):
            term = inception(i, before if chained else x)
            before = nn.relu(term)
            if self.train and self.survival < 1:
                term = drop_path(term, 1 - self.survival, self.make_rng('dropout'))
            total = total + self.survival * term
        return nn.relu(total)

    def block(self, i: int, x: jax.Array) -> jax.Array:
        """The i-th of blocks that share nothing."""
        layer = functools.partial(ConvNorm, conv=self.conv, norm=self.norm)
        outputs = []
        for path, layers in enumerate(BLOCKS[self.stage]):
            y = x
            for j, (features, window) in enumerate(layers):
                name = f'blocks.{i}.path{path}.{j}'
                y = layer(int(features * self.width), window, name=name)(y)
            outputs.append(y)
        return self.last(f'blocks.{i}.conv2d', x, outputs)

    def sharing_blocks(self) -> Callable[[int, jax.Array], jax.Array]:
        """Blocks with the same convolutions, made here, and norms of their own."""
        paths = [
            [
                self.conv(int(features * self.width), window, name=f'path{path}.{j}.conv')
                for j, (features, window) in enumerate(layers)
            ]
            for path, layers in enumerate(BLOCKS[self.stage])
        ]

        def block(i: int, x: jax.Array) -> jax.Array:
            outputs = []
            for path, convs in enumerate(paths):
                y = x
                for j, conv in enumerate(convs):
                    y = nn.relu(self.norm(name=f'path{path}.{j}.bn_blocks.{i}')(conv(y)))
                outputs.append(y)
            return self.last(f'conv2d_blocks.{i}', x, outputs)

        return block

    def last(self, name: str, x: jax.Array, paths: Sequence[jax.Array]) -> jax.Array:
        """All paths together, brought to the channels of x, small at first."""
        norm = functools.partial(self.norm, scale_init=init.Constant(0.3))
        together = jnp.concatenate(paths, axis=-1)
        return ConvNorm(x.shape[-1], 1, self.conv, norm, act=None, name=name)(together)


class PolyNet(nn.Module):
    """The stem and reductions of Inception-ResNet-v2, and stages of PolyInceptions."""

    stage_a: Sequence[str]
    stage_b: Sequence[str]
    stage_c: Sequence[str]
    width: float = 1.0  # factor of all channels
    path_drop_rate: float = 0.3  # of the last module; the first never drops
    dropout_rate: float = 0.2
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images, of 75 pixels or more, to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(BatchNorm, train, group=self.bn_group, dtype=self.dtype)

        def layer(x, features, window, name, strides=1, padding=None):
            features = int(features * self.width)
            return ConvNorm(features, window, conv, norm, strides, padding, name=name)(x)

        def reduce(x, paths, name):
            outputs = []
            for path, layers in enumerate(paths):
                y = x
                for j, (features, window) in enumerate(layers):
                    how = (2, 'VALID') if j == len(layers) - 1 else ()
                    y = layer(y, features, window, f'{name}.path{path}.{j}', *how)
                outputs.append(y)
            return jnp.concatenate([*outputs, max_pool(x, 3, 2)], axis=-1)

        x = stem(images, layer)
        self.sow('intermediates', 'stem', x)
        stages = {'a': self.stage_a, 'b': self.stage_b, 'c': self.stage_c}
        index, last = 0, sum(map(len, stages.values())) - 1
        for number, (stage, kinds) in enumerate(stages.items(), 1):
            for i, kind in enumerate(kinds):
                survival = 1 - self.path_drop_rate * index / last
                parts = (self.width, survival, train, conv, norm)
                x = PolyInception(kind, stage, *parts, name=f'stage_{stage}.{i}')(x)
                index += 1
            self.sow('intermediates', f'stage{number}', x)
            if stage in REDUCTIONS:
                x = reduce(x, REDUCTIONS[stage], f'reduction_{stage}')
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
        return residual.head(self, x, 'last_linear', dropout)


def stem(x: jax.Array, layer: Callable) -> jax.Array:
    """The stem of Inception-v4 (1602.07261, figure 3): an eighth of the pixels, 384 channels.

    Args:
      x: images.
      layer: (x, features, window, name, strides, padding) -> a convolution's output.
    """
    x = layer(x, 32, 3, 'stem.conv1.0', 2, 'VALID')
    x = layer(x, 32, 3, 'stem.conv1.1', 1, 'VALID')
    x = layer(x, 64, 3, 'stem.conv1.2')
    branch = layer(x, 96, 3, 'stem.conv1_branch', 2, 'VALID')
    x = jnp.concatenate([max_pool(x, 3, 2), branch], axis=-1)
    short = layer(x, 64, 1, 'stem.conv2_short.0')
    short = layer(short, 96, 3, 'stem.conv2_short.1', 1, 'VALID')
    long = layer(x, 64, 1, 'stem.conv2_long.0')
    long = layer(long, 64, (7, 1), 'stem.conv2_long.1')
    long = layer(long, 64, (1, 7), 'stem.conv2_long.2')
    long = layer(long, 96, 3, 'stem.conv2_long.3', 1, 'VALID')
    x = jnp.concatenate([short, long], axis=-1)
    branch = layer(x, 192, 3, 'stem.conv2_branch', 2, 'VALID')
    return jnp.concatenate([max_pool(x, 3, 2), branch], axis=-1)


RELEASE = (
    (r'^(stage_[bc]\.\d+\.path0)\.0\.', r'\1_1x1.'),
    (r'^(stage_b\.\d+\.path0)\.1\.', r'\1_1x7.'),
    (r'^(stage_b\.\d+\.path0)\.2\.', r'\1_7x1.'),
    (r'^(stage_c\.\d+\.path0)\.1\.', r'\1_1x3.'),
    (r'^(stage_c\.\d+\.path0)\.2\.', r'\1_3x1.'),
    (r'^(stage_[bc]\.\d+\.(?:blocks\.\d\.)?path1)\.0\.', r'\1.'),
    (r'^(stage_a\..*path2|reduction_a\.path1)\.0\.', r'\1.'),
)
VERY_DEEP = {
    'stage_a': ('2-way',) * 10,
    'stage_b': ('poly-3', '2-way') * 10,
    'stage_c': ('poly-3', '2-way') * 5,
}
register(
    Variant(
        'polynet',
        SYSTEM,
        PolyNet,
        VERY_DEEP,
        input_size=331,
        params=95_366_600,
        macs=34_699_493_472,
        top1=81.29,
        top5=95.75,
        reference='pretrainedmodels:polynet',
        renames=RELEASE,
    )
)
# One-way modules are the residual units of Inception-ResNet-v2.
MIXED_B = {
    'stage_a': ('1-way',) * 6,
    'stage_b': ('3-way', 'mpoly-3', 'poly-3') * 4,
    'stage_c': ('1-way',) * 6,
    'path_drop_rate': 0.0,
}
register(Variant('polynet_mixed_b', SYSTEM, PolyNet, MIXED_B, 299, 58_406_344, 18_273_650_784))

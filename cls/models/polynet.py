"""PolyNet: A Pursuit of Structural Diversity in Very Deep Networks (Zhang et al.; CVPR 2017).

https://arxiv.org/abs/1611.05725

What is new: PolyInception modules. In place of Inception-ResNet-v2's residual units (I + F) x, with
an Inception block F, these have more terms of a polynomial (section 3.1):

  poly-3    I + F + F F + F F F         one block, used three times
  mpoly-3   I + F + G F + H G F         three blocks, one after the other
  3-way     I + F + G + H               three blocks in parallel

A block of a chain begins with the rectified output of the previous one. In a poly module the blocks
share all convolutions except the last, and each has its own norms (as in the release).

In training, each term of each example is dropped at random ('stochastic paths', section 4): the
chain continues without the contribution of the term. The release multiplies the terms by numbers
that fall in 39 equal steps from 1 at the first module to 0.7 at the last; we take these for the
probabilities of survival, the weights of the terms in evaluation. The paper speaks of a largest
drop of 0.25, and of dropping only when a network begins to overfit. Its residual scaling, by 0.3,
is not part of the release's graph; here the scale of a block's last norm begins at 0.3.

Agrees with: pretrainedmodels' polynet, the released Very Deep PolyNet; `polynet_mixed_b` is the
network of section 3.2 with the best stage B, three kinds of modules in turn; no package has it. The
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
from cls.nn.norm import batch_norm
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
# The paths after stages a and b, parallel to a max pool. Only the last layer of a path has stride
# 2; it is not padded.
REDUCTIONS = {
    'a': (((256, 1), (256, 3), (384, 3)), ((384, 3),)),
    'b': (((256, 1), (256, 3), (256, 3)), ((256, 1), (256, 3)), ((256, 1), (384, 3))),
}


class PolyInception(nn.Module):
    """A module of the shape-preserving blocks of a stage: 'poly-N', 'mpoly-N' or 'N-way'."""

    kind: str
    stage: str
    width: float  # multiplier of all channels
    survival: float  # probability of keeping a term
    train: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, C)."""
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
        """Returns the output of the i-th of independent blocks."""
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
        """Returns a function like `block`, for blocks that share convolutions but not norms."""
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
        """Returns the concatenated paths, projected to the channels of x, initially small."""
        norm = functools.partial(self.norm, scale_init=init.Constant(0.3))
        y = jnp.concatenate(paths, axis=-1)
        return ConvNorm(x.shape[-1], 1, self.conv, norm, act=None, name=name)(y)


class PolyNet(nn.Module):
    """Inception-ResNet-v2's stem and reductions, and stages of PolyInception modules."""

    stage_a: Sequence[str]
    stage_b: Sequence[str]
    stage_c: Sequence[str]
    width: float = 1.0  # multiplier of all channels
    path_drop_rate: float = 0.3  # of the last module, rising linearly from 0 in the first
    dropout_rate: float = 0.2
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images of at least 75 pixels to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)

        def layer(x, features, window, name, strides=1, padding=None):
            features = int(features * self.width)
            return ConvNorm(features, window, conv, norm, strides, padding, name=name)(x)

        def reduce(x, paths, name):
            outputs = []
            for path, layers in enumerate(paths):
                y = x
                for j, (features, window) in enumerate(layers):
                    strides, padding = (2, 'VALID') if j == len(layers) - 1 else (1, None)
                    y = layer(y, features, window, f'{name}.path{path}.{j}', strides, padding)
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
    """Returns the output of Inception-v4's stem (1602.07261, figure 3): an eighth, 384 channels.

    Args:
      x: images.
      layer: (x, features, window, name, strides, padding) -> the output of a convolution.
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

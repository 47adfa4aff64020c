"""GoogLeNet: Going Deeper with Convolutions (CVPR 2015).

Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich;
https://arxiv.org/abs/1409.4842

What is new: the Inception module, in which 1x1, 3x3 and 5x5 convolutions and a max pool read the
same input in parallel, and 1x1 convolutions reduce the channels before the large convolutions; and
two small classifiers on intermediate feature maps that supply gradients in training.

`googlenet` is the paper's network (Table 1): biases, local response normalization, no batch
normalization. Details that the paper leaves open follow Caffe's bvlc_googlenet: pooling rounds its
size up, the normalizations have alpha 1e-4 (of a mean over five channels) and k 1, weights are
drawn from U(-sqrt(3 / fan-in), sqrt(3 / fan-in)), and biases are 0.2 except in the classifiers. No
package has it; logits are tested against an independent reimplementation. The paper's text has 6.8
million parameters and 1.5 billion multiply-adds; the network of its Table 1 has the 6,998,552
parameters of Caffe's deployed one.

`googlenet_bn` agrees with torchvision's googlenet, whose parameter names both variants use. It is
another network: batch normalization in place of biases and LRN, 3x3 where the paper has 5x5, a last
pool of 2x2, auxiliary heads on an adaptive 4x4 pool, all weights from N(0, 0.01^2). Its public
weights expect images scaled to (x - 127.5) / 127.5: torchvision's `transform_input` converts images
normalized by ImageNet's mean and deviation. A state dict without auxiliary heads is read with
`aux_head=False`.

The heads read 4a and 4d, or with fewer modules the first and the last but one of stage 4. The
parameters of the paper's heads depend on the image size: their first linear layer reads the whole
map of a 5x5 pool with stride 3, 4x4 for an image of 224 pixels.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import init
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import batch_norm, local_response_norm
from cls.nn.pool import adaptive_avg_pool, avg_pool, max_pool
from cls.nn.units import ConvNorm

SYSTEM = System(
    name='GoogLeNet',
    title='Going Deeper with Convolutions',
    venue='CVPR 2015',
    arxiv='1409.4842',
    top1=None,
    top5=93.33,  # seven networks, 144 crops (Table 3)
    headline='googlenet',
    params=6.8,
    macs=1_500,
)

# Output channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, and pool projection (Table 1).
STAGES = (
    (
        (64, 96, 128, 16, 32, 32),
        (128, 128, 192, 32, 96, 64),
    ),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    (
        (256, 160, 320, 32, 128, 128),
        (384, 192, 384, 48, 128, 128),
    ),
)


class Inception(nn.Module):
    """Four branches on the same input, concatenated (figure 2b)."""

    features: Sequence[int]  # a row of STAGES
    unit: Callable[..., nn.Module]  # (features, window, name=)
    largest: int  # window of the third branch

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, C')."""
        one, reduce3, three, reduce5, five, pooled = self.features
        y = self.unit(reduce3, 1, name='branch2.0')(x)
        z = self.unit(reduce5, 1, name='branch3.0')(x)
        branches = (
            self.unit(one, 1, name='branch1')(x),
            self.unit(three, 3, name='branch2.1')(y),
            self.unit(five, self.largest, name='branch3.1')(z),
            self.unit(pooled, 1, name='branch4.1')(max_pool(x, 3, 1, padding=1)),
        )
        return jnp.concatenate(branches, -1)


class AuxiliaryHead(nn.Module):
    """A classifier on an intermediate feature map, for training only (section 5)."""

    num_classes: int
    pool: Callable[[jax.Array], jax.Array]
    unit: Callable[..., nn.Module]
    dense: Callable[..., nn.Module]
    dropout: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, num_classes) logits."""
        x = self.unit(128, 1, name='conv')(self.pool(x))
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # in PyTorch's order (N, C, H, W)
        x = nn.relu(self.dense(1024, bias_init=init.Constant(0.2), name='fc1')(x))
        return self.dense(self.num_classes, name='fc2')(self.dropout(x))


def _no_norm(name: str) -> Any:
    """Returns the identity, in place of batch normalization."""
    return lambda x: x


def _lrn(x: jax.Array) -> jax.Array:
    return local_response_norm(x, size=5, alpha=1e-4 / 5, beta=0.75, k=1.0)


def _paper_head_pool(x: jax.Array) -> jax.Array:
    """Returns the 5x5 means with stride 3; of a smaller map the mean."""
    return avg_pool(x, min(5, *x.shape[1:3]), 3)


class GoogLeNet(nn.Module):
    """A stem, three stages of Inception modules, and two auxiliary heads on the second stage."""

    stem_features: Sequence[int] = (64, 64, 192)  # output channels of the stem's convolutions
    stages: Sequence[Sequence[Sequence[int]]] = STAGES
    batch_norm: bool = False  # and torchvision's other changes
    aux_head: bool = True
    dropout_rate: float = 0.4
    aux_dropout_rate: float = 0.7
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        if self.batch_norm:
            kernel_init, largest, last_pool = init.Normal(0.01), 3, 2
            norm = batch_norm(self, train, epsilon=1e-3)
            head_pool = functools.partial(adaptive_avg_pool, size=4)
        else:
            kernel_init, largest, last_pool = init.VarianceScaling(1.0, 'fan_in', 'uniform'), 5, 3
            norm, head_pool = _no_norm, _paper_head_pool
        conv = functools.partial(
            Conv,
            use_bias=not self.batch_norm,
            dtype=self.dtype,
            kernel_init=kernel_init,
            bias_init=init.Constant(0.2),
        )
        unit = functools.partial(ConvNorm, conv=conv, norm=norm)
        dense = functools.partial(Dense, dtype=self.dtype, kernel_init=kernel_init)
        pool = functools.partial(max_pool, strides=2, ceil_mode=True)
        lrn = (lambda x: x) if self.batch_norm else _lrn

        first, second, third = self.stem_features
        x = unit(first, 7, strides=2, name='conv1')(images)
        x = unit(second, 1, name='conv2')(lrn(pool(x, 3)))
        x = pool(lrn(unit(third, 3, name='conv3')(x)), 3)
        self.sow('intermediates', 'stem', x)
        for stage, modules in enumerate(self.stages, 3):
            if stage > 3:
                x = pool(x, last_pool if stage == 5 else 3)
            for i, features in enumerate(modules):
                x = Inception(features, unit, largest, name=f'inception{stage}{"abcde"[i]}')(x)
                heads = {0: 'aux1', len(modules) - 2: 'aux2'} if stage == 4 else {}
                if i in heads and self.aux_head and (train or self.is_initializing()):
                    dropout = nn.Dropout(self.aux_dropout_rate, deterministic=not train)
                    head = AuxiliaryHead(
                        self.num_classes, head_pool, unit, dense, dropout, name=heads[i]
                    )
                    aux_logits = head(x).astype(jnp.float32)
                    if train:
                        self.sow('aux_logits', f'{heads[i]}_logits', aux_logits)
            self.sow('intermediates', f'stage{stage - 2}', x)

        x = jnp.mean(x, (1, 2))
        self.sow('intermediates', 'pre_logits', x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = dense(self.num_classes, name='fc')(x)
        return x.astype(jnp.float32)


register(
    Variant(
        'googlenet',
        SYSTEM,
        GoogLeNet,
        {},
        224,
        params=6_998_552,
        macs=1_582_671_872,
        top5=89.93,  # one network, one crop (Table 3)
    )
)
register(
    Variant(
        'googlenet_bn',
        SYSTEM,
        GoogLeNet,
        {'batch_norm': True, 'dropout_rate': 0.2},
        224,
        params=6_624_904,
        macs=1_498_376_192,
        reference='torchvision:googlenet',
    )
)

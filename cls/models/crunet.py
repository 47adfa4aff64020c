"""CRU-Net: Sharing Residual Units Through Collective Tensor Factorization.

Chen, Jin, Kang, Feng, Yan (the title continues: To Improve Deep Neural Networks); IJCAI 2018;
 https://arxiv.org/abs/1703.02180

What is new: a residual function is a block term decomposition of a convolution's tensor, and
several units of a stage share its first factors. In a collective residual unit the kernels of a 1x1
and a depthwise 3x3 convolution are shared (by six units); two further 1x1 convolutions and all
normalizations are not. The other stages have pre-activation ResNeXt units (32x4d); `@x14` names the
resolutions of the collective stages.

At the start of a collective stage one 1x1 kernel projects the input twice, each time after a
normalization of its own: with stride 2 for the shortcut, at full resolution for the residual
function.

No installable package has these networks, so they are tested against an independent
reimplementation. The graph is that of Table 1, as in gluoncv2 (MXNet): the number of parameters is
exactly the same, and so is the cost. The 5,660.66 M that gluoncv2 lists for CRU-Net-56 are half of
a count of all operations; without normalization, rectifiers and pooling they come to 5,634.15 M
multiply-adds. Table 1 has the same parameters (25.5 M, 43.7 M) but 4.9 and 13.3 G multiply-adds; we
could not reproduce these.

Epsilon is 1e-3, the default of the authors' MXNet. gluoncv2 has 1e-5 and lists an error of 25.72 %
for the authors' weights of CRU-Net-56; the authors report 21.9 %.

CRU-Net-56 136x1d is inferred: the authors give only its name, 98 MB and an error of 21.7 %. Their
sizes are those of the float32 variables in units of 2^20 bytes, rounded up (this holds for their
other two networks and for all five of DPN). With the 640 shared channels of 32x4d the size is 97.4
if the residual units are depthwise throughout, but 98.3 with 136 groups in each.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import grouped, init, residual
from cls.nn.conv import conv
from cls.nn.padding import Size, pair

SYSTEM = System(
    name='CRU-Net',
    title='Sharing Residual Units Through Collective Tensor Factorization To Improve Deep Neural '
    'Networks',
    venue='IJCAI 2018',
    arxiv='1703.02180',
    top1=79.7,  # CRU-Net-116, wider
    top5=94.7,
    headline='crunet116',
    params=43.7,
    macs=13_300,
)


class SharedConv(nn.Module):
    """A convolution that several units apply, each with its own strides."""

    features: int
    window: Size
    dtype: Any
    groups: int = 1
    kernel_init: Callable = init.he_normal

    @nn.compact
    def __call__(self, x: jax.Array, strides: Size = 1) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features)."""
        shape = (*pair(self.window), x.shape[-1] // self.groups, self.features)
        kernel = init.parameter(self, 'kernel', self.kernel_init, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return conv(x, kernel, strides=strides, groups=self.groups)


class ResidualUnit(nn.Module):
    """A pre-activation ResNeXt bottleneck; the shortcut is projected where the shape changes."""

    features: int
    inner: int
    groups: int
    strides: int
    unit: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features)."""
        shortcut = x
        if x.shape[-1] != self.features:
            shortcut, _ = self.unit(self.features, 1, strides=self.strides, name='shortcut')(x)
        y = grouped.bottleneck(self.unit, x, self.inner, self.features, self.strides, self.groups)
        return shortcut + y


class CollectiveUnit(nn.Module):
    """A residual unit that shares its first two convolutions, `reduce` and `spatial`.

    Neither normalization nor activation separates those two (figure 3, right).
    """

    features: int
    strides: int
    unit: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shared: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, reduce: SharedConv, spatial: SharedConv) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features) with the two shared convolutions."""
        shortcut = x
        if x.shape[-1] != self.features:
            project = self.shared(self.features, 1, name='project')
            shortcut = project(nn.relu(self.norm(name='bn_shortcut')(x)), self.strides)
            x = project(nn.relu(self.norm(name='bn_project')(x)))
        y = nn.relu(self.norm(name='bn')(x))
        y = spatial(reduce(y), self.strides)
        y, _ = self.unit(y.shape[-1], 1, name='conv3')(y)
        y, _ = self.unit(self.features, 1, name='conv4')(y)
        return shortcut + y


class CRUNet(nn.Module):
    """Stages of residual or collective units; each stage doubles the channels."""

    block_sizes: Sequence[int]
    collective: Sequence[int]  # channels of each stage's shared convolutions; 0: residual units
    sharing: int = 6  # number of consecutive units that share kernels
    width: int = 256  # of the first stage
    inner: int = 128  # channels of the first stage's grouped convolutions
    groups: int = 32  # 0: one group for each channel
    stem_features: int = 64
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        make_conv, norm, unit = grouped.layers(self, train)
        shared = functools.partial(SharedConv, dtype=self.dtype)
        x = grouped.stem(self, images, make_conv, norm)
        for i, (size, rank) in enumerate(zip(self.block_sizes, self.collective, strict=True)):
            stage, features, inner = f'conv{i + 2}', self.width * 2**i, self.inner * 2**i
            for j in range(size):
                strides, name = 2 if i and not j else 1, f'{stage}_{j + 1}'
                if not rank:
                    groups = self.groups or inner
                    x = ResidualUnit(features, inner, groups, strides, unit, name=name)(x)
                    continue
                if j % self.sharing == 0:
                    reduce = shared(rank, 1, name=f'{name}_reduce')
                    spatial = shared(rank, 3, groups=rank, name=f'{name}_spatial')
                x = CollectiveUnit(features, strides, unit, norm, shared, name=name)(
                    x, reduce, spatial
                )
            self.sow('intermediates', f'stage{i + 1}', x)
        x = nn.relu(norm(name='bn')(x))
        return residual.head(self, x)


# Numbers of units are Table 1's; top-1 is the authors', by a single crop
# (https://github.com/cypw/CRU-Net).
IMAGENET = {
    'crunet56': ((3, 4, 6, 3), (0, 0, 640, 0), 128, 32, 25_609_384, 5_634_153_472, 78.1),
    'crunet56_136x1d': ((3, 4, 6, 3), (0, 0, 640, 0), 136, 0, 25_474_144, 5_646_757_056, 78.3),
    'crunet116': ((3, 6, 18, 3), (0, 352, 704, 0), 128, 32, 43_656_136, 12_645_923_328, 79.4),
}
register_table(
    IMAGENET,
    'block_sizes collective inner groups params macs top1',
    system=SYSTEM,
    module=CRUNet,
    input_size=224,
)

"""SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size (2016).

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer; https://arxiv.org/abs/1602.07360

What is new: the Fire module, in which a few 1x1 filters squeeze the channels and a layer of 1x1 and
3x3 filters expands them, and a network made of these modules, without linear layers and with late
downsampling.

Agrees with: torchvision's squeezenet1_0 and squeezenet1_1 (the authors' v1.1: fewer and smaller
filters in the stem, earlier pooling), with the same parameter names; `_simple` adds the input of a
Fire module to its output where both have the same number of channels, as pytorchcv's
squeezeresnet_v1_0 and v1_1; `_complex` adds a 1x1 convolution of the input in the other modules.
That variant is in no package and is tested against an independent reimplementation. The paper does
not say whether a rectifier follows the convolution; in ours none does. The convolutions at fire2,
4, 6 and 8 add 96 x 128 + 128 x 256 + 256 x 384 + 384 x 512 weights and 1,280 biases to the
1,248,424 parameters, 6.4 MB in all, where the paper's Table 3 has 7.7 MB; on 54 x 54 and 27 x 27
pixels they add 346,374,144 multiply-adds.

As in the authors' Caffe files the first convolution is not padded (109 pixels of 224; the paper's
Table 1 has 111), pooling rounds sizes up, weights are drawn from U(-sqrt(3 / fan-in),
sqrt(3 / fan-in)) and the classifier's from N(0, 0.01^2). Some of their files also pad the 1x1
classifier by a pixel; torchvision does not, nor do we.

Logits are rectified. One that is negative for every image gets no gradient and stays dead: with ten
classes, and batches that move every logit alike, all of them were dead within twenty steps.
Training on few classes therefore needs a positive `logit_bias`.

The paper's Table 2 has the accuracy of v1.0, Table 3 that of the bypasses; v1.1 is not in it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import init
from cls.nn.conv import Conv
from cls.nn.pool import max_pool

SYSTEM = System(
    name='SqueezeNet',
    title='SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size',
    venue='arXiv 2016',
    arxiv='1602.07360',
    top1=60.4,  # with simple bypass (Table 3)
    top5=82.5,
    headline='squeezenet1_0_simple',
    params=1.25,
)


class Fire(nn.Module):
    """Squeezes to `features` / 8 channels; expands to `features`, half by 1x1, half by 3x3."""

    features: int
    bypass: str  # see SqueezeNet
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, features)."""
        squeezed = nn.relu(self.conv(self.features // 8, 1, name='squeeze')(x))
        half = self.features // 2
        branches = (
            nn.relu(self.conv(half, 1, name='expand1x1')(squeezed)),
            nn.relu(self.conv(half, 3, name='expand3x3')(squeezed)),
        )
        out = jnp.concatenate(branches, -1)
        fits = x.shape[-1] == self.features
        if self.bypass == 'none' or (self.bypass == 'simple' and not fits):
            return out
        return out + (x if fits else self.conv(self.features, 1, name='bypass')(x))


class SqueezeNet(nn.Module):
    """A convolution, stages of Fire modules, each after a max pool, and a 1x1 convolution."""

    stages: Sequence[Sequence[int]]  # output channels of each module
    stem_features: int
    stem_window: int
    # none | simple (where the channels fit) | complex (with a convolution elsewhere)
    bypass: str = 'none'
    logit_bias: float = 0.0  # initial value; needs to be positive for few classes
    logit_padding: int = 0  # zeros around the last map; the authors' file of version 1.0 has 1
    dropout_rate: float = 0.5
    num_classes: int = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) non-negative float32 logits."""
        kernel_init = init.VarianceScaling(1.0, 'fan_in', 'uniform')
        conv = functools.partial(Conv, use_bias=True, dtype=self.dtype, kernel_init=kernel_init)

        stem = conv(self.stem_features, self.stem_window, 2, padding='VALID', name='features.0')
        x, index = nn.relu(stem(images)), 1  # the index in torchvision's list of layers
        self.sow('intermediates', 'stem', x)
        for stage, modules in enumerate(self.stages, 1):
            x = max_pool(x, 3, 2, ceil_mode=True)
            index += 1
            for features in modules:
                index += 1
                x = Fire(features, self.bypass, conv, name=f'features.{index}')(x)
            self.sow('intermediates', f'stage{stage}', x)

        self.sow('intermediates', 'pre_logits', jnp.mean(x, (1, 2)))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        initial = {'kernel_init': init.Normal(0.01), 'bias_init': init.Constant(self.logit_bias)}
        padding = self.logit_padding
        x = conv(self.num_classes, 1, padding=padding, **initial, name='classifier.1')(x)
        return jnp.mean(nn.relu(x).astype(jnp.float32), (1, 2))


V1_0 = {
    'stages': ((128, 128, 256), (256, 384, 384, 512), (512,)),
    'stem_features': 96,
    'stem_window': 7,
}
V1_1 = {
    'stages': ((128, 128), (256, 256), (384, 384, 512, 512)),
    'stem_features': 64,
    'stem_window': 3,
}


def pytorchcv(stages: Sequence[Sequence[int]]) -> tuple[tuple[str, str], ...]:
    """Returns the pairs for pytorchcv's names, with units numbered within a stage."""
    pairs, index = [(r'^features\.0\.', 'features.init_block.conv.')], 1
    for stage, modules in enumerate(stages, 1):
        index += 1  # a max pool
        for unit in range(1, len(modules) + 1):
            index += 1
            new = rf'features.stage{stage}.unit{unit}.\1.conv.'
            pairs.append((rf'^features\.{index}\.(\w+)\.', new))
    return (*pairs, (r'^classifier\.1\.', 'output.final_conv.'))


# The authors' names in Caffe, with Fire modules numbered from 2, and torchvision's.
CAFFE = (
    (r'^conv1\.', 'features.0.'),
    *(
        (rf'^fire{fire}\.', f'features.{index}.')
        for fire, index in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True)
    ),
    (r'\.squeeze1x1\.', '.squeeze.'),
    (r'^conv10\.', 'classifier.1.'),
)
# Top-1 and top-5 are the paper's.
TABLE = {
    'squeezenet1_0': (
        V1_0,
        1_248_424,
        818_924_576,
        57.5,
        80.3,
        'torchvision:squeezenet1_0',
        (),
        (),
    ),
    'squeezenet1_1': (
        V1_1,
        1_235_496,
        349_151_936,
        None,
        None,
        'torchvision:squeezenet1_1',
        (),
        CAFFE,
    ),
    'squeezenet1_0_simple': (
        {**V1_0, 'bypass': 'simple'},
        1_248_424,
        818_924_576,
        60.4,
        82.5,
        'pytorchcv:squeezeresnet_v1_0',
        pytorchcv(V1_0['stages']),
        (),
    ),
    'squeezenet1_1_simple': (
        {**V1_1, 'bypass': 'simple'},
        1_235_496,
        349_151_936,
        None,
        None,
        'pytorchcv:squeezeresnet_v1_1',
        pytorchcv(V1_1['stages']),
        (),
    ),
    'squeezenet1_0_complex': (
        {**V1_0, 'bypass': 'complex'},
        1_589_672,
        1_165_298_720,
        58.8,
        82.0,
        None,
        (),
        (),
    ),
}
register_table(
    TABLE,
    'fields params macs top1 top5 reference renames old_names',
    system=SYSTEM,
    module=SqueezeNet,
    input_size=224,
)

"""SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size (2016).

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer; https://arxiv.org/abs/1602.07360

What is new: the Fire module, in which few 1x1 filters squeeze what a layer of 1x1 and 3x3 filters
then expands, and a net of nothing else, without linear layers, that is pooled late.

Agrees with: torchvision's squeezenet1_0 and squeezenet1_1 (the authors' v1.1: fewer and smaller
filters in front, pools earlier), whose names the parameters bear; `_simple` adds the input of a
Fire module to its output where both have as many channels, as pytorchcv's squeezeresnet_v1_0;
`_complex` elsewhere passes it through a 1x1 convolution first. That one is in no package and is
held against a restatement; the paper does not say whether a rectifier follows the convolution, and
none does here. Beside fire2, 4, 6 and 8 it adds 96 x 128 + 128 x 256 + 256 x 384 + 384 x 512
weights and 1,280 biases to the 1,248,424 parameters, 6.4 MB in all, where the paper's Table 3 has
7.7 MB; on 54 x 54 and 27 x 27 pixels that is 346,374,144 multiply-adds more.

As in the authors' Caffe files the first convolution is not padded (109 pixels of 224; the paper's
Table 1 has 111), pools round their size up, weights are drawn from U(-sqrt(3 / fan-in),
sqrt(3 / fan-in)) and the classifier's from N(0, 0.01^2). Some of their files also pad the 1x1
classifier by a pixel; torchvision does not, nor is it done here.

Logits are rectified. One that is negative for every image gets no gradient and stays so: with ten
classes, where a batch moves every logit alike, all of them were gone within twenty steps. Training
on few classes wants a positive `logit_bias`.

The paper's Table 2 has the accuracy of v1.0, Table 3 that of the bypasses; v1.1 is not in it.
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
    """Squeezes to an eighth of `features` channels; expands to half by 1x1, half by 3x3 filters."""

    features: int
    bypass: str  # see SqueezeNet
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
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
    """A convolution, stages of Fire modules with a max pool before each, a 1x1 convolution."""

    stages: Sequence[Sequence[int]]  # output channels of each module
    stem_features: int
    stem_window: int
    bypass: str = (
        'none'  # none | simple (where channels fit) | complex (by a convolution elsewhere)
    )
    logit_bias: float = 0.0  # initial; above 0 so that few classes are not soon all rectified away
    dropout_rate: float = 0.5
    num_classes: int = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits, none of them negative."""
        kernel_init = init.VarianceScaling(1.0, 'fan_in', 'uniform')
        conv = functools.partial(Conv, use_bias=True, dtype=self.dtype, kernel_init=kernel_init)

        stem = conv(self.stem_features, self.stem_window, 2, padding='VALID', name='features.0')
        x, index = nn.relu(stem(images)), 1  # in torchvision's list of layers
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
        x = conv(self.num_classes, 1, **initial, name='classifier.1')(x)
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
# pytorchcv's names: the unit of each module, counted within its stage.
PYTORCHCV = (
    (r'^features\.0\.', 'features.init_block.conv.'),
    *(
        (rf'^features\.{index}\.(\w+)\.', rf'features.stage{stage}.unit{unit}.\1.conv.')
        for stage, units in enumerate(((3, 4, 5), (7, 8, 9, 10), (12,)), 1)
        for unit, index in enumerate(units, 1)
    ),
    (r'^classifier\.1\.', 'output.final_conv.'),
)
# The authors' names in Caffe, and torchvision's: Fire modules are counted from 2.
CAFFE = (
    (r'^conv1\.', 'features.0.'),
    *(
        (rf'^fire{fire}\.', f'features.{index}.')
        for fire, index in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True)
    ),
    (r'\.squeeze1x1\.', '.squeeze.'),
    (r'^conv10\.', 'classifier.1.'),
)
# Fields, parameters, multiply-adds, top-1 and top-5, reference.
NETS = {
    'squeezenet1_0': (V1_0, 1_248_424, 818_924_576, 57.5, 80.3, 'torchvision:squeezenet1_0'),
    'squeezenet1_1': (V1_1, 1_235_496, 349_151_936, None, None, 'torchvision:squeezenet1_1'),
    'squeezenet1_0_simple': (
        {**V1_0, 'bypass': 'simple'},
        *(1_248_424, 818_924_576, 60.4, 82.5, 'pytorchcv:squeezeresnet_v1_0'),
    ),
    'squeezenet1_0_complex': (
        {**V1_0, 'bypass': 'complex'},
        *(1_589_672, 1_165_298_720, 58.8, 82.0, None),
    ),
}
for name, (fields, *known) in NETS.items():
    renames = PYTORCHCV if name == 'squeezenet1_0_simple' else ()
    old_names = CAFFE if name == 'squeezenet1_1' else ()
    register(Variant(name, SYSTEM, SqueezeNet, fields, 224, *known, renames, old_names))

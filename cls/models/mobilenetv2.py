"""MobileNetV2: Inverted Residuals and Linear Bottlenecks (Sandler, Howard, Zhu, Zhmoginov, Chen).

CVPR 2018; https://arxiv.org/abs/1801.04381

What is new: blocks that expand a few channels to many, filter those depthwise, and project them
back without a rectifier, which would destroy information in few channels; shortcuts connect the
narrow ends (cls/nn/inverted.py). Table 2 has the network; a multiplier of all widths makes it
smaller or larger, but never shrinks the 1,280 channels of the last convolution.

Agrees with: torchvision's mobilenet_v2, with the same parameter names in mobilenetv2_100 (its
importer also reads timm's), and timm's networks of other widths. Those pad symmetrically and have
PyTorch's batch norm; mobilenetv2_100_tf has the authors' (TensorFlow's slim): 'SAME' padding and an
epsilon of 1e-3. It agrees with an independent reimplementation; its public weights have 1,001
classes, the first of them the background.

pytorchcv's networks, of names with `w`, have channels that are not rounded to multiples of 8 and a
classifier without a bias; those without `b` begin with a 1x1 convolution in the first block too.

Departs from the paper, with the authors' code: the network of width 1.4 has 6.1 million parameters
and not 6.9. Convolutions are drawn as torchvision draws them; the authors' code draws all kernels
from a normal distribution of deviation 0.09.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
from cls.nn import inverted
from cls.nn.conv import Conv
from cls.nn.inverted import Genotype, InvertedResidual, round_channels
from cls.nn.norm import batch_norm
from cls.nn.padding import Padding

SYSTEM = System(
    name='MobileNetV2',
    title='MobileNetV2: Inverted Residuals and Linear Bottlenecks',
    venue='CVPR 2018',
    arxiv='1801.04381',
    top1=74.7,
    top5=None,
    headline='mobilenetv2_100',
    params=3.4,
    macs=300,
)

TABLE_2 = Genotype(
    (
        ('r1_k3_s1_e1_o16',),
        ('r2_k3_s2_e6_o24',),
        ('r3_k3_s2_e6_o32',),
        ('r4_k3_s2_e6_o64',),
        ('r3_k3_s1_e6_o96',),
        ('r3_k3_s2_e6_o160',),
        ('r1_k3_s1_e6_o320',),
    )
)


class MobileNetV2(nn.Module):
    """Inverted residuals with ReLU6."""

    genotype: Genotype = TABLE_2
    width: float = 1.0  # multiplier of all channels; at least 1 for the last convolution
    depth: float = 1.0  # multiplier of the repeats of a block, rounded up, but of the outer stages
    fixed_ends: bool = False  # whether the first and the last convolution have no multiplier
    stem_features: int = 32
    head_features: int = 1280
    divisor: int = 8  # of all channels
    always_expands: bool = False  # with a 1x1 convolution also in the first block
    head_bias: bool = True  # of the classifier
    padding: Padding = None
    epsilon: float = 1e-5
    dropout_rate: float = 0.2
    num_classes: int = 1000
    bn_group: int = 0
    bn_momentum: float = 0.997
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, padding=self.padding, dtype=self.dtype)
        norm = batch_norm(self, train, momentum=self.bn_momentum, epsilon=self.epsilon)
        block = functools.partial(
            InvertedResidual,
            conv=conv,
            norm=norm,
            divisor=self.divisor,
            always_expands=self.always_expands,
        )
        runs = inverted.scaled(self.genotype, self.width, self.depth, self.divisor)
        ends = inverted.scaled(self.genotype, self.width, divisor=self.divisor)
        runs[0], runs[-1] = ends[0], ends[-1]
        width = 1.0 if self.fixed_ends else self.width
        stem = round_channels(self.stem_features * width, self.divisor)
        last = round_channels(self.head_features * max(1.0, width), self.divisor)

        x = inverted.stem(self, images, stem, conv, norm, 'relu6')
        x = inverted.stages(self, x, runs, block, 'relu6')
        parts = (conv, norm, 'relu6', train)
        return inverted.head(self, x, last, *parts, use_bias=self.head_bias)


def _torchvision():
    """Yields our name and torchvision's for each layer."""
    yield from (('conv_stem', 'features.0.0'), ('bn1', 'features.0.1'))
    blocks = inverted.blocks(inverted.scaled(TABLE_2))
    for i, (name, run) in enumerate(blocks, 1):
        layers = ('conv_pw', 'bn1', 'conv_dw', 'bn2', 'conv_pwl', 'bn3')
        theirs = ('0.0', '0.1', '1.0', '1.1', '2', '3')
        if run.expansion == 1:
            layers, theirs = layers[2:], ('0.0', '0.1', '1', '2')
        for layer, suffix in zip(layers, theirs, strict=True):
            yield f'{name}.{layer}', f'features.{i}.conv.{suffix}'
    last = len(blocks) + 1
    yield from (('conv_head', f'features.{last}.0'), ('bn2', f'features.{last}.1'))
    yield 'classifier', 'classifier.1'


# Top-1 is the paper's (section 6.1 and Table 4); below width 1 both accuracies are those of the
# checkpoints of the authors' code.
TIMM = {
    'mobilenetv2_140': (1.4, 6_108_776, 582_195_824, 74.7, None),
    'mobilenetv2_075': (0.75, 2_636_424, 209_069_792, 69.8, 89.6),
    'mobilenetv2_050': (0.5, 1_968_680, 97_131_840, 65.4, 86.4),
    'mobilenetv2_035': (0.35, 1_677_128, 59_285_808, 60.3, 82.9),
}
# timm's deeper networks, with the first and the last convolution of width 1.
DEEP = {
    'mobilenetv2_110d': (1.1, 1.2, 4_516_520, 430_516_080),
    'mobilenetv2_120d': (1.2, 1.4, 5_831_144, 668_857_568),
}
FULL = {'params': 3_504_872, 'macs': 300_774_272, 'top1': 72.0}

register(
    Variant(
        'mobilenetv2_100',
        SYSTEM,
        MobileNetV2,
        {},
        224,
        **FULL,
        reference='torchvision:mobilenet_v2',
        renames=inverted.renames(_torchvision()),
        old_names=inverted.from_timm(_torchvision()),
    )
)
register(
    Variant(
        'mobilenetv2_100_tf',
        SYSTEM,
        MobileNetV2,
        {'padding': 'SAME', 'epsilon': 1e-3},
        224,
        **FULL,
    )
)
register_table(
    TIMM,
    'width params macs top1 top5',
    system=SYSTEM,
    module=MobileNetV2,
    input_size=224,
    reference=lambda name: f'timm:{name}',
    renames=inverted.TIMM,
)
register_table(
    DEEP,
    'width depth params macs',
    system=SYSTEM,
    module=MobileNetV2,
    fields={'fixed_ends': True},
    input_size=224,
    reference=lambda name: f'timm:{name}',
    renames=inverted.TIMM,
)

PLAIN = {'divisor': 1, 'head_bias': False}
EXPANDED = {**PLAIN, 'always_expands': True}
NARROW = {
    'mobilenetv2_w1': (1.0, EXPANDED, 3_504_960, 313_619_328),
    'mobilenetv2_w3d4': (0.75, EXPANDED, 2_627_592, 186_650_528),
    'mobilenetv2_wd2': (0.5, EXPANDED, 1_964_736, 92_271_040),
    'mobilenetv2_wd4': (0.25, EXPANDED, 1_516_392, 30_480_864),
    'mobilenetv2b_w3d4': (0.75, PLAIN, 2_626_968, 179_425_184),
    'mobilenetv2b_wd2': (0.5, PLAIN, 1_964_448, 89_059_776),
    'mobilenetv2b_wd4': (0.25, PLAIN, 1_516_312, 29_678_048),
}
register_table(
    NARROW,
    'width fields params macs',
    system=SYSTEM,
    module=MobileNetV2,
    input_size=224,
    reference=lambda name: f'pytorchcv:{name}',
    renames=(*inverted.pytorchcv(inverted.scaled(TABLE_2)), *inverted.PYTORCHCV),
)

"""EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks (ICML 2019).

Tan, Le; https://arxiv.org/abs/1905.11946

What is new: depth, width and resolution grow together, each as a power of one coefficient
(`compound_scaling`), from a small network found by a search (`B0`, table 1): inverted residuals
with squeeze and excitation and swish. `genotype` may be any other network of such blocks.

Agrees with: timm's tf_efficientnet_*, the authors' networks (TensorFlow's padding; epsilon 1e-3),
and its efficientnet_*, the same with PyTorch's padding and epsilon, for weights trained in PyTorch.
ES, EM and EL are the authors' EdgeTPU-S, -M and -L: fused blocks, ReLU, no squeeze and excitation.
Lite are the authors' networks for mobile devices (lite/ in their code): ReLU6, no squeeze and
excitation, and a stem and head of fixed size. The tf_ variants also read weights with the names of
efficientnet-pytorch and efficientnet-lite-pytorch.

The published coefficients of B1, B2 and B3 are compound_scaling(phi) with phi of 1/2, 1 and 2,
width and depth rounded to a tenth and pixels to ten. No phi gives those of B4 to B7: with 4 to 7,
width and resolution come within 5 %, but the published networks are shallower by an eighth.
COEFFICIENTS therefore has the authors' numbers, and a test checks the distance of each from the
formula.
"""

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import init, inverted
from cls.nn.conv import Conv
from cls.nn.inverted import FusedResidual, Genotype, InvertedResidual, Run, round_channels
from cls.nn.norm import batch_norm

SYSTEM = System(
    name='EfficientNet',
    title='EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks',
    venue='ICML 2019',
    arxiv='1905.11946',
    top1=84.3,
    top5=97.0,
    headline='tf_efficientnet_b7',
    params=66,
    macs=37_000,
)

B0 = Genotype(
    (
        ('r1_k3_s1_e1_o16_se0.25',),
        ('r2_k3_s2_e6_o24_se0.25',),
        ('r2_k5_s2_e6_o40_se0.25',),
        ('r3_k3_s2_e6_o80_se0.25',),
        ('r3_k5_s1_e6_o112_se0.25',),
        ('r4_k5_s2_e6_o192_se0.25',),
        ('r1_k3_s1_e6_o320_se0.25',),
    )
)
LITE = Genotype(
    (
        ('r1_k3_s1_e1_o16',),
        ('r2_k3_s2_e6_o24',),
        ('r2_k5_s2_e6_o40',),
        ('r3_k3_s2_e6_o80',),
        ('r3_k5_s1_e6_o112',),
        ('r4_k5_s2_e6_o192',),
        ('r1_k3_s1_e6_o320',),
    )
)
# Networks for an accelerator (edgetpu/ in the authors' code).
EDGE = Genotype(
    (
        ('r1_k3_s1_e4_o24_fused_fc24_noskip',),
        ('r2_k3_s2_e8_o32_fused',),
        ('r4_k3_s2_e8_o48_fused',),
        ('r5_k5_s2_e8_o96',),
        ('r4_k5_s1_e8_o144',),
        ('r2_k5_s2_e8_o192',),
    )
)


def compound_scaling(phi: float) -> tuple[float, float, float]:
    """Returns the unrounded (width, depth, pixels) of a network of about 2 ** phi times B0's cost.

    Equation 3, with the alpha, beta and gamma of section 3.3.
    """
    return 1.1**phi, 1.2**phi, 224 * 1.15**phi


def scaled(genotype: Genotype, width: float, depth: float, lite: bool) -> list[list[Run]]:
    """Returns the runs of each stage; in a lite network the outer stages keep their depth."""
    runs = inverted.scaled(genotype, width, depth)
    if lite:
        ends = inverted.scaled(genotype, width)
        runs[0], runs[-1] = ends[0], ends[-1]
    return runs


class EfficientNet(nn.Module):
    """A scaled network of inverted residuals."""

    genotype: Genotype = B0
    width: float = 1.0  # multiplier of all channels
    depth: float = 1.0  # multiplier of the repeats of a block, rounded up
    lite: bool = False  # ReLU6; fixed stem and head, fixed depth of the outer stages
    act: str = 'swish'  # unless `lite`
    padding: str | None = 'SAME'
    dropout_rate: float = 0.2
    drop_path_rate: float = 0.2  # of the last block, rising from 0 (1 - survival_prob)
    num_classes: int = 1000
    bn_group: int = 0
    bn_momentum: float = 0.99
    bn_epsilon: float = 1e-3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, padding=self.padding, dtype=self.dtype)
        norm = batch_norm(self, train, momentum=self.bn_momentum, epsilon=self.bn_epsilon)
        block = functools.partial(InvertedResidual, conv=conv, norm=norm)
        fused = functools.partial(FusedResidual, conv=conv, norm=norm)
        act, ends = ('relu6', 1.0) if self.lite else (self.act, self.width)
        runs = scaled(self.genotype, self.width, self.depth, self.lite)
        drop_rate = self.drop_path_rate if train else 0.0

        x = inverted.stem(self, images, round_channels(32 * ends), conv, norm, act)
        x = inverted.stages(self, x, runs, block, act, drop_rate, fused)
        kernel_init = init.VarianceScaling(1 / 3, 'fan_out', 'uniform')
        width = round_channels(1280 * ends)
        return inverted.head(self, x, width, conv, norm, act, train, kernel_init)


# Names of efficientnet-pytorch and efficientnet-lite-pytorch, except the numbers of the blocks.
OLD = (
    (r'^_conv_(stem|head)\.', r'conv_\1.'),
    (r'^_bn0\.', 'bn1.'),
    (r'^_bn1\.', 'bn2.'),
    (r'^_fc\.', 'classifier.'),
    (r'^(blocks\.0\.\d+)\._(bn[12])\.', r'\1.\2.'),
    (r'^(blocks\.0\.\d+)\._project_conv\.', r'\1.conv_pw.'),
    (r'\._expand_conv\.', '.conv_pw.'),
    (r'\._bn0\.', '.bn1.'),
    (r'\._depthwise_conv\.', '.conv_dw.'),
    (r'\._bn1\.', '.bn2.'),
    (r'\._se_(reduce|expand)\.', r'.se.conv_\1.'),
    (r'\._project_conv\.', '.conv_pwl.'),
    (r'\._bn2\.', '.bn3.'),
)


# Width, depth, input size and dropout are from the authors' code (efficientnet_builder.py, in lite/
# efficientnet_lite_builder.py; timm evaluates lite3 and lite4 on larger images). Top-1 and top-5
# are the paper's (table 2), Lite's from lite/README.md. B8 and L2 are from later papers that train
# them with additional data (1911.09665, 1911.04252).
COEFFICIENTS = {
    'b0': (1.0, 1.0, 224, 0.2, 5_288_548, 385_814_752, 77.1, 93.3),
    'b1': (1.0, 1.1, 240, 0.2, 7_794_184, 686_802_832, 79.1, 94.4),
    'b2': (1.1, 1.2, 260, 0.3, 9_109_994, 993_561_872, 80.1, 94.9),
    'b3': (1.2, 1.4, 300, 0.3, 12_233_232, 1_827_141_392, 81.6, 95.7),
    'b4': (1.4, 1.8, 380, 0.4, 19_341_616, 4_393_771_024, 82.9, 96.4),
    'b5': (1.6, 2.2, 456, 0.4, 30_389_784, 10_266_384_752, 83.6, 96.7),
    'b6': (1.8, 2.6, 528, 0.5, 43_040_704, 19_067_593_536, 84.0, 96.8),
    'b7': (2.0, 3.1, 600, 0.5, 66_347_960, 37_745_884_192, 84.3, 97.0),
    'b8': (2.2, 3.6, 672, 0.5, 87_413_142, 62_597_461_568, None, None),
    'l2': (4.3, 5.3, 800, 0.5, 480_309_308, 475_703_653_280, None, None),
    'lite0': (1.0, 1.0, 224, 0.2, 4_652_008, 385_187_552, 75.1, None),
    'lite1': (1.0, 1.1, 240, 0.2, 5_416_680, 600_185_232, 76.7, None),
    'lite2': (1.1, 1.2, 260, 0.3, 6_092_072, 859_736_272, 77.6, None),
    'lite3': (1.2, 1.4, 280, 0.3, 8_197_096, 1_383_321_872, 79.8, None),
    'lite4': (1.4, 1.8, 300, 0.3, 13_006_568, 2_553_034_336, 81.5, None),
}
# The networks for an accelerator, in the authors' form and in PyTorch's; top-1 is from their
# edgetpu/README.md.
EDGES = {
    'es': (1.0, 1.0, 224, 0.2, 5_438_392, 1_788_731_008, 77.23),
    'em': (1.0, 1.1, 240, 0.2, 6_899_496, 3_013_321_088, 78.69),
    'el': (1.2, 1.4, 300, 0.3, 10_589_712, 7_936_082_848, 80.62),
}
PYTORCH = {'padding': None, 'bn_momentum': 0.9, 'bn_epsilon': 1e-5}
WITH_PYTORCH = ('b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7', 'b8', 'l2', 'lite0')


def _forms(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the prefix and the fields of the authors' form and, if timm has it, of PyTorch's."""
    lite = name.startswith('lite')
    fields = {'genotype': LITE if lite else B0, 'lite': lite}
    yield 'tf_', fields
    if name in WITH_PYTORCH:
        yield '', {**fields, **PYTORCH}


def _old_names(name: str) -> tuple[tuple[str, str], ...]:
    """Returns OLD, after pairs for the consecutive numbers of the blocks in those packages."""
    if not name.startswith('tf_'):
        return ()
    short = name.removeprefix('tf_efficientnet_')
    width, depth, *_ = COEFFICIENTS[short]
    (_, fields), *_ = _forms(short)
    runs = scaled(fields['genotype'], width, depth, fields['lite'])
    paths = (path for path, _ in inverted.blocks(runs))
    return (*((rf'^_blocks\.{n}\.', f'{path}.') for n, path in enumerate(paths)), *OLD)


register_table(
    {
        f'{prefix}efficientnet_{name}': (*row, fields)
        for name, row in COEFFICIENTS.items()
        for prefix, fields in _forms(name)
    },
    'width depth input_size dropout_rate params macs top1 top5 fields',
    system=SYSTEM,
    module=EfficientNet,
    reference=lambda name: f'timm:{name}',
    renames=inverted.TIMM,
    old_names=_old_names,
)
register_table(
    {
        f'{prefix}efficientnet_{name}': (*row, fields)
        for name, row in EDGES.items()
        for prefix, fields in (('tf_', {}), ('', PYTORCH))
    },
    'width depth input_size dropout_rate params macs top1 fields',
    system=SYSTEM,
    module=EfficientNet,
    fields={'genotype': EDGE, 'act': 'relu'},
    reference=lambda name: f'timm:{name}',
)

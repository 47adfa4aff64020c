"""MobileNetV3: Searching for MobileNetV3 (Howard, Sandler, Chu, Chen, Chen, Tan, Wang, and others).

ICCV 2019; https://arxiv.org/abs/1905.02244

What is new: inverted residuals (cls/nn/inverted.py) found by a search for a phone and trimmed by
NetAdapt; the activation h-swish, x * ReLU6(x + 3) / 6, in the deeper half; squeeze and excitation
of the expanded channels with a hard sigmoid; a last stage with its widest layer after the pooling,
on a single pixel (figure 5). Tables 1 and 2 have the networks. The minimalistic ones of the
authors' code have no h-swish, no squeeze and excitation and no 5x5 windows.

Agrees with: torchvision's mobilenet_v3_large and _small, with the same parameter names in these
two; timm's mobilenetv3_* for the widths 0.75 and 0.5 and its deeper large_150d, with PyTorch's
epsilon in the norms; and timm's tf_mobilenetv3_*, which pad as TensorFlow does. The stem has 16
channels up to width 1. pytorchcv's networks (with `w` in their names) scale the stem and the
expanded channels too, have 1,280 hidden units, and no bias of these.

Departs from the paper: torchvision's and timm's plain networks pad symmetrically, the authors' code
as TensorFlow does. The small network has 2.54 million parameters and 56.5 million multiply-adds,
and 2.04 and 52.3 in its minimalistic form; the paper's last edition says 2.5 and 56, the authors'
README 2.9 and 66, and 2.0 and 65. Linear layers are drawn as PyTorch draws them.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
from cls.nn import inverted
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.inverted import ACTIVATIONS, Genotype, InvertedResidual, round_channels
from cls.nn.norm import batch_norm
from cls.nn.padding import Padding

SYSTEM = System(
    name='MobileNetV3',
    title='Searching for MobileNetV3',
    venue='ICCV 2019',
    arxiv='1905.02244',
    top1=75.2,
    top5=None,
    headline='mobilenetv3_large_100',
    params=5.4,
    macs=219,
)

LARGE = Genotype(  # Table 1
    (
        ('r1_k3_s1_e1_o16_relu',),
        ('r1_k3_s2_e4_o24_relu', 'r1_k3_s1_e3_o24_relu'),
        ('r3_k5_s2_e3_o40_se0.25_relu',),
        ('r1_k3_s2_e6_o80', 'r1_k3_s1_e2.5_o80', 'r2_k3_s1_e2.3_o80'),
        ('r2_k3_s1_e6_o112_se0.25',),
        ('r3_k5_s2_e6_o160_se0.25',),
    )
)
SMALL = Genotype(  # Table 2
    (
        ('r1_k3_s2_e1_o16_se0.25_relu',),
        ('r1_k3_s2_e4.5_o24_relu', 'r1_k3_s1_e3.67_o24_relu'),
        ('r1_k5_s2_e4_o40_se0.25', 'r2_k5_s1_e6_o40_se0.25'),
        ('r2_k5_s1_e3_o48_se0.25',),
        ('r3_k5_s2_e6_o96_se0.25',),
    )
)


def minimal(genotype: Genotype) -> Genotype:
    """Returns the genotype with 3x3 windows only, no squeeze and excitation, one activation."""

    def strip(text: str) -> str:
        return text.replace('_se0.25', '').replace('k5', 'k3').replace('_relu', '')

    return Genotype(tuple(tuple(map(strip, stage)) for stage in genotype.stages))


def share_of_expanded(share: float, channels: int, expanded: int) -> int:
    """Returns the inner width of a gate: a share of the expanded channels, a multiple of 8."""
    return round_channels(share * expanded)


class MobileNetV3(nn.Module):
    """Inverted residuals, a wide 1x1 convolution, pooling, and two linear layers."""

    genotype: Genotype
    last_features: int  # of the 1x1 convolution before the pooling
    head_features: int  # of the linear layer after the pooling
    width: float = 1.0  # multiplier of the channels of the blocks and the last convolution
    stem_features: int = 16
    last_layers: int = 1  # 1x1 convolutions before the pooling
    act: str = 'hswish'
    hidden_bias: bool = True  # of the first linear layer
    padding: Padding = None
    epsilon: float = 1e-3
    gate_first: bool = False  # gates before the activation (d-li14/mobilenetv3.pytorch)
    dropout_rate: float = 0.2
    drop_path_rate: float = 0.0  # rises by the block from 0 in the first
    num_classes: int = 1000
    bn_group: int = 0
    bn_momentum: float = 0.99
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
            gate_width=share_of_expanded,
            gate_act=nn.relu,
            gate_function=nn.hard_sigmoid,
            gate_first=self.gate_first,
        )
        runs = inverted.scaled(self.genotype, self.width)
        act = ACTIVATIONS[self.act]

        x = inverted.stem(self, images, self.stem_features, conv, norm, self.act)
        # As in timm, the convolutions after the blocks count in the growth of the rate.
        count = len(inverted.blocks(runs))
        drop_rate = self.drop_path_rate * count / (count + self.last_layers) if train else 0.0
        x = inverted.stages(self, x, runs, block, self.act, drop_rate)
        for i in range(self.last_layers):
            last = f'blocks.{len(runs)}.{i}'
            x = conv(round_channels(self.last_features * self.width), name=f'{last}.conv')(x)
            x = act(norm(name=f'{last}.bn1')(x))
        x = jnp.mean(x, (1, 2))
        dense = functools.partial(Dense, dtype=self.dtype)
        x = act(dense(self.head_features, use_bias=self.hidden_bias, name='conv_head')(x))
        self.sow('intermediates', 'pre_logits', x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = dense(self.num_classes, name='classifier')(x)
        return x.astype(jnp.float32)


def _torchvision(genotype):
    """Yields our name and torchvision's for each layer."""
    yield from (('conv_stem', 'features.0.0'), ('bn1', 'features.0.1'))
    runs = inverted.scaled(genotype)
    blocks = inverted.blocks(runs)
    for i, (name, run) in enumerate(blocks, 1):
        units = [('conv_pw', 'bn1')] if run.expansion != 1 else []
        units += [('conv_dw', 'bn2'), *([None] if run.gate else []), ('conv_pwl', 'bn3')]
        for j, unit in enumerate(units):
            theirs = f'features.{i}.block.{j}'
            if unit:
                yield from ((f'{name}.{layer}', f'{theirs}.{k}') for k, layer in enumerate(unit))
            else:
                yield f'{name}.se.conv_reduce', f'{theirs}.fc1'
                yield f'{name}.se.conv_expand', f'{theirs}.fc2'
    last, theirs = f'blocks.{len(runs)}.0', f'features.{len(blocks) + 1}'
    yield from ((f'{last}.conv', f'{theirs}.0'), (f'{last}.bn1', f'{theirs}.1'))
    yield from (('conv_head', 'classifier.0'), ('classifier', 'classifier.3'))


def _renames(genotype: Genotype) -> tuple[tuple[str, str], ...]:
    return inverted.renames(_torchvision(genotype))


def from_timm(genotype: Genotype) -> tuple[tuple[str, str], ...]:
    """Returns renames from timm's names of a network to torchvision's."""
    return inverted.from_timm(_torchvision(genotype))


LARGE_FIELDS = {'genotype': LARGE, 'last_features': 960, 'head_features': 1280}
SMALL_FIELDS = {'genotype': SMALL, 'last_features': 576, 'head_features': 1024}
# Top-1 is the paper's (Table 3).
TORCHVISION = {
    'mobilenetv3_large_100': (
        LARGE_FIELDS,
        5_483_032,
        216_589_760,
        75.2,
        'torchvision:mobilenet_v3_large',
        _renames(LARGE),
    ),
    'mobilenetv3_small_100': (
        SMALL_FIELDS,
        2_542_856,
        56_510_400,
        67.4,
        'torchvision:mobilenet_v3_small',
        _renames(SMALL),
    ),
}
# Top-1 is from the authors' README, here and in MINIMAL.
TIMM = {
    'mobilenetv3_large_075': (LARGE_FIELDS, 0.75, 3_993_528, 154_560_624, 73.3),
    'mobilenetv3_small_075': (SMALL_FIELDS, 0.75, 2_041_872, 43_399_344, 65.4),
    'mobilenetv3_small_050': (SMALL_FIELDS, 0.5, 1_593_224, 24_188_688, None),
}
# timm's network of depth 1.2, by its rule for stages of several runs.
DEEP = Genotype(
    (
        ('r2_k3_s1_e1_o16_relu',),
        ('r1_k3_s2_e4_o24_relu', 'r2_k3_s1_e3_o24_relu'),
        ('r4_k5_s2_e3_o40_se0.25_relu',),
        ('r1_k3_s2_e6_o80', 'r2_k3_s1_e2.5_o80', 'r2_k3_s1_e2.3_o80'),
        ('r3_k3_s1_e6_o112_se0.25',),
        ('r4_k5_s2_e6_o160_se0.25',),
    )
)
# The authors' form of the networks above: TensorFlow's padding and epsilon.
TENSORFLOW = {
    'tf_mobilenetv3_large_100': (LARGE_FIELDS, 1.0, 5_483_032, 216_589_760, 75.2),
    'tf_mobilenetv3_large_075': (LARGE_FIELDS, 0.75, 3_993_528, 154_560_624, 73.3),
    'tf_mobilenetv3_small_100': (SMALL_FIELDS, 1.0, 2_542_856, 56_510_400, 67.4),
    'tf_mobilenetv3_small_075': (SMALL_FIELDS, 0.75, 2_041_872, 43_399_344, 65.4),
}
LARGE_MINIMAL = {**LARGE_FIELDS, 'genotype': minimal(LARGE)}
SMALL_MINIMAL = {**SMALL_FIELDS, 'genotype': minimal(SMALL)}
MINIMAL = {
    'mobilenetv3_large_minimal_100': (LARGE_MINIMAL, 3_924_288, 209_136_704, 72.3),
    'mobilenetv3_small_minimal_100': (SMALL_MINIMAL, 2_044_736, 52_288_448, 61.9),
}
register_table(
    TORCHVISION,
    'fields params macs top1 reference renames',
    system=SYSTEM,
    module=MobileNetV3,
    input_size=224,
)
register_table(
    TIMM,
    'fields width params macs top1',
    system=SYSTEM,
    module=MobileNetV3,
    fields={'epsilon': 1e-5},
    input_size=224,
    reference=lambda name: f'timm:{name}',
    renames=inverted.TIMM,
)
register_table(
    MINIMAL,
    'fields params macs top1',
    system=SYSTEM,
    module=MobileNetV3,
    fields={'act': 'relu', 'padding': 'SAME'},
    input_size=224,
    reference=lambda name: f'timm:tf_{name}',
    renames=inverted.TIMM,
)
register_table(
    TENSORFLOW,
    'fields width params macs top1',
    system=SYSTEM,
    module=MobileNetV3,
    fields={'padding': 'SAME'},
    input_size=224,
    reference=lambda name: f'timm:{name}',
    renames=inverted.TIMM,
)
register(
    Variant(
        'mobilenetv3_large_150d',
        SYSTEM,
        MobileNetV3,
        {
            **LARGE_FIELDS,
            'genotype': DEEP,
            'width': 1.5,
            'stem_features': 24,
            'last_layers': 2,
            'epsilon': 1e-5,
        },
        input_size=256,
        params=14_622_320,
        macs=1_010_021_120,
        reference='timm:mobilenetv3_large_150d',
        renames=inverted.TIMM,
    )
)


def rescaled(genotype: Genotype, scale: float) -> Genotype:
    """Returns the genotype with all channels scaled as in pytorchcv.

    It rounds the expanded channels of the full network times `scale`, where the authors round the
    expansion of the scaled inputs.
    """
    stages, full, channels = [], 16, round_channels(16 * scale)
    for stage in inverted.scaled(genotype):
        texts = []
        for run in (block for _, block in inverted.blocks([stage])):
            expanded = round_channels(round_channels(full * run.expansion) * scale)
            full, features = run.features, round_channels(run.features * scale)
            gate, act = '_se0.25' * bool(run.gate), f'_{run.act}' * bool(run.act)
            ratio = f'{expanded / channels:.6f}' if run.expansion != 1 else '1'
            texts.append(f'r1_k{run.window}_s{run.strides}_e{ratio}_o{features}{gate}{act}')
            channels = features
        stages.append(tuple(texts))
    return Genotype(tuple(stages))


def _pytorchcv(genotype: Genotype) -> tuple[tuple[str, str], ...]:
    runs = inverted.scaled(genotype)
    return (
        (rf'^blocks\.{len(runs)}\.0\.conv\.', 'features.final_block.conv.conv.'),
        (rf'^blocks\.{len(runs)}\.0\.bn1\.', 'features.final_block.conv.bn.'),
        *inverted.pytorchcv(runs),
        (r'^conv_stem\.', 'features.init_block.conv.'),
        (r'^bn1\.', 'features.init_block.bn.'),
        (r'^conv_head\.', 'output.conv1.'),
        (r'^classifier\.', 'output.conv2.'),
        (r'\.conv_pw\.', '.exp_conv.conv.'),
        (r'\.conv_dw\.', '.conv1.conv.'),
        (r'\.conv_pwl\.', '.conv2.conv.'),
        (r'\.(unit\d)\.bn1\.', r'.\1.exp_conv.bn.'),
        (r'\.(unit\d)\.bn2\.', r'.\1.conv1.bn.'),
        (r'\.(unit\d)\.bn3\.', r'.\1.conv2.bn.'),
        (r'\.se\.conv_reduce\.', '.se.conv1.'),
        (r'\.se\.conv_expand\.', '.se.conv2.'),
    )


def _pytorchcv_fields(small: bool, scale: float) -> dict[str, Any]:
    last = 576 if small else 960
    return {
        'genotype': rescaled(SMALL if small else LARGE, scale),
        'last_features': round_channels(last * scale) if scale > 1 else last,
        'head_features': 1280,
        'stem_features': round_channels(16 * scale),
        'hidden_bias': False,
        'epsilon': 1e-5,
    }


# pytorchcv's networks; the large one of width 1 is the paper's.
PYTORCHCV = {
    'mobilenetv3_small_w1': (True, 1.0, 2_945_288, 56_913_856),
    'mobilenetv3_small_w7d20': (True, 0.35, 2_159_600, 13_429_208),
    'mobilenetv3_small_wd2': (True, 0.5, 2_288_976, 21_005_936),
    'mobilenetv3_small_w3d4': (True, 0.75, 2_581_312, 40_541_112),
    'mobilenetv3_small_w5d4': (True, 1.25, 3_643_632, 88_155_944),
    'mobilenetv3_large_w7d20': (False, 0.35, 2_943_080, 38_900_936),
    'mobilenetv3_large_wd2': (False, 0.5, 3_334_896, 68_405_392),
    'mobilenetv3_large_w3d4': (False, 0.75, 4_263_496, 142_302_616),
    'mobilenetv3_large_w5d4': (False, 1.25, 7_459_144, 342_757_000),
}
register_table(
    PYTORCHCV,
    'small scale params macs',
    system=SYSTEM,
    module=MobileNetV3,
    fields=_pytorchcv_fields,
    input_size=224,
    reference=lambda name: f'pytorchcv:{name}',
    renames=lambda name: _pytorchcv(SMALL if 'small' in name else LARGE),
)

"""Inverted residuals, and nets that are described by strings of them.

MobileNetV2 (Sandler et al. 2018, 1801.04381) is built of blocks that expand their input by a 1x1
convolution, filter it depthwise, and project it to a few channels without a rectifier, with the
shortcut between the narrow ends. MnasNet (Tan et al. 2019, 1807.11626) writes a net of such blocks
as strings, one for each run of equal blocks, and searches for them; ProxylessNAS, MobileNetV3 and
EfficientNet followed. The letters are those of MnasNet's code:

  r2_k5_s2_e6_o40_se0.25    two blocks with 5x5 windows, the first with stride 2, expansion 6,
                            40 output channels, gates (squeeze and excite) of a quarter;
  noskip                    without shortcuts;
  relu, relu6, swish, hswish   another activation than the net's.

A stage is a tuple of such strings, and its blocks are numbered through. Names of layers follow
timm's, but that a block with expansion 1, which has no `conv_pw`, keeps the others' names.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.nn import init
from cls.nn.attention import SqueezeExcite
from cls.nn.dense import Dense
from cls.nn.drop import path_of
from cls.nn.limits import check_layers
from cls.nn.shuffle import channel_shuffle

Activation = Callable[[jax.Array], jax.Array]
ACTIVATIONS: dict[str, Activation] = {
    'relu': nn.relu,
    'relu6': nn.relu6,
    'swish': nn.swish,
    'hswish': nn.hard_swish,
}


def round_channels(width: float, divisor: int = 8) -> int:
    """Returns the multiple of `divisor` nearest to a width, but never less than 90 % of it."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * width else rounded + divisor


@dataclasses.dataclass(frozen=True)
class Run:
    """Equal blocks in a row; only the first has the stride."""

    repeats: int
    window: int
    strides: int
    expansion: float
    features: int
    gate: float = 0.0  # width of the gates' inner layer, as a share
    skip: bool = True
    act: str = ''


def decode(text: str) -> Run:
    """Returns the run of blocks that a string stands for (see the module).

    Raises ValueError for what is no such string.
    """
    known = {'r': int, 'k': int, 's': int, 'e': float, 'o': int, 'se': float}
    values: dict[str, Any] = {'se': 0.0}
    skip, act = True, ''
    for part in text.split('_'):
        match = re.fullmatch(r'(r|k|s|e|o|se)(\d+(?:\.\d+)?)', part)
        if part == 'noskip':
            skip = False
        elif part in ACTIVATIONS:
            act = part
        elif match and not (known[match[1]] is int and '.' in match[2]):
            if values.get(match[1]):
                raise ValueError(f'{text!r} has {match[1]} twice')
            values[match[1]] = known[match[1]](match[2])
        else:
            raise ValueError(
                f'cannot read {part!r} in {text!r}: expected r, k, s, e, o or se with a number, '
                f'noskip, {" or ".join(ACTIVATIONS)}'
            )
    missing = [letter for letter in known if letter not in values]
    if missing:
        raise ValueError(f'{text!r} lacks {", ".join(missing)}')
    if min(values[letter] for letter in 'rksoe') < 1:
        raise ValueError(f'{text!r}: expected r, k, s, e and o of at least 1')
    if values['k'] % 2 == 0:
        raise ValueError(f'{text!r}: expected an odd k')
    return Run(*(values[letter] for letter in known), skip=skip, act=act)


@dataclasses.dataclass(frozen=True)
class Genotype:
    """A net's stages, each of one or more strings. Raises ValueError for one that has no sense."""

    stages: tuple[tuple[str, ...], ...]

    @property
    def num_layers(self) -> int:
        return sum(decode(part).repeats for stage in self.stages for part in stage)

    def __post_init__(self):
        for text in self.stages:
            for part in text:
                decode(part)


def scaled(genotype: Genotype, width: float = 1.0, depth: float = 1.0) -> list[list[Run]]:
    """Returns each stage's runs: channels times `width`, repetitions times `depth`, upwards."""
    return [
        [
            dataclasses.replace(
                run,
                features=round_channels(run.features * width),
                repeats=math.ceil(run.repeats * depth),
            )
            for run in map(decode, stage)
        ]
        for stage in genotype.stages
    ]


def blocks(runs: Sequence[Sequence[Run]]) -> list[tuple[str, Run]]:
    """Returns the name of each block, `blocks.S.I`, and what it is as a run of its own.

    Raises UserError for more blocks than a net may have.
    """
    check_layers(sum(run.repeats for stage in runs for run in stage), 'the net')
    return [block for s, stage in enumerate(runs) for block in _blocks_of(s, stage)]


def _blocks_of(s: int, stage: Sequence[Run]) -> list[tuple[str, Run]]:
    each = [
        dataclasses.replace(run, repeats=1, strides=run.strides if i == 0 else 1)
        for run in stage
        for i in range(run.repeats)
    ]
    return [(f'blocks.{s}.{i}', run) for i, run in enumerate(each)]


# From our names to timm's, for nets whose blocks with expansion 1 are the first stage.
TIMM = (
    (r'^(blocks\.0\.\d+)\.conv_pwl\.', r'\1.conv_pw.'),
    (r'^(blocks\.0\.\d+)\.bn2\.', r'\1.bn1.'),
    (r'^(blocks\.0\.\d+)\.bn3\.', r'\1.bn2.'),
)


def renames(modules: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Returns renames of all that modules hold, from pairs (our name, theirs)."""
    return tuple((rf'^{re.escape(ours)}\.(\w+)$', rf'{theirs}.\1') for ours, theirs in modules)


def from_timm(modules: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Returns the renames that turn timm's names into another package's, given as for `renames`."""
    return renames((_timm(f'{ours}.')[:-1], theirs) for ours, theirs in modules)


def _timm(name: str) -> str:
    for pattern, replacement in TIMM:
        name = re.sub(pattern, replacement, name)
    return name


def share_of_input(share: float, channels: int, expanded: int) -> int:
    """Returns the inner width of gates: a share of the block's input (MnasNet, EfficientNet)."""
    return max(1, int(channels * share))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, gates, 1x1 projection (MobileNetV2, figure 4b).

    With `groups` the 1x1 convolutions are grouped; the first of them, which is there even without
    expansion, has its channels shuffled and not rectified (IGCV3).
    """

    features: int
    window: int
    strides: int
    expansion: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    act: Activation = nn.relu6
    gate: float = 0.0  # width of the gates' inner layer, as a share; 0: no gates
    gate_width: Callable[[float, int, int], int] = share_of_input
    gate_act: Activation | None = None  # inside the gates, if not `act`
    gate_function: Activation = nn.sigmoid
    skip: bool = True
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: jax.Array | float = 0.0) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features); drop_rate is of the residual, per example."""
        channels = x.shape[-1]
        divisor = 8 if self.groups == 1 else self.groups
        expanded = channels
        if self.expansion != 1:
            expanded = round_channels(channels * self.expansion, divisor)
        y = x
        if self.expansion != 1 or self.groups > 1:
            y = self.conv(expanded, 1, groups=self.groups, name='conv_pw')(y)
            y = self.norm(name='bn1')(y)
            y = self.act(y) if self.groups == 1 else channel_shuffle(y, self.groups)
        y = self.conv(
            expanded,
            self.window,
            self.strides,
            groups=expanded,
            kernel_init=init.he_normal,
            name='conv_dw',
        )(y)
        y = self.act(self.norm(name='bn2')(y))
        if self.gate:
            inner, act = self.gate_width(self.gate, channels, expanded), self.gate_act or self.act
            names = ('conv_reduce', 'conv_expand')
            y = SqueezeExcite(inner, self.conv, act, self.gate_function, names, name='se')(y)
        y = self.conv(self.features, 1, groups=self.groups, name='conv_pwl')(y)
        y = self.norm(name='bn3')(y)
        if not (self.skip and self.strides == 1 and channels == self.features):
            return y
        return x + path_of(self, y, drop_rate)


def stages(
    net: nn.Module,
    x: jax.Array,
    runs: Sequence[Sequence[Run]],
    block: Callable[..., nn.Module],
    act: str,
    drop_rate: float = 0.0,
) -> jax.Array:
    """All blocks, `blocks.S.I`; each stage's output is sown as `stage1`, ...

    Args:
      net: the module that they are a part of.
      x: (N, H, W, C).
      runs: of each stage.
      block: InvertedResidual with the fields that all blocks have in common.
      act: name of the activation of runs that name none.
      drop_rate: of a residual at the end; it grows linearly with the block's index from 0.
    """
    total, index = len(blocks(runs)), 0
    for s, stage in enumerate(runs):
        for name, run in _blocks_of(s, stage):
            make = block(
                run.features,
                run.window,
                run.strides,
                run.expansion,
                act=ACTIVATIONS[run.act or act],
                gate=run.gate,
                skip=run.skip,
                name=name,
            )
            x = make(x, drop_rate * index / total)
            index += 1
        net.sow('intermediates', f'stage{s + 1}', x)
    return x


def stem(
    net: nn.Module,
    images: jax.Array,
    width: int,
    conv: Callable[..., nn.Module],
    norm: Callable[..., nn.Module],
    act: str,
) -> jax.Array:
    """3x3 convolution with stride 2."""
    x = ACTIVATIONS[act](norm(name='bn1')(conv(width, 3, 2, name='conv_stem')(images)))
    net.sow('intermediates', 'stem', x)
    return x


def classify(
    net: nn.Module,
    x: jax.Array,
    width: int,
    conv: Callable[..., nn.Module],
    norm: Callable[..., nn.Module],
    act: str,
    train: bool,
    kernel_init: Any = Dense.kernel_init,
) -> jax.Array:
    """1x1 convolution to `width` channels, mean over all pixels, dropout, linear layer.

    The net has `num_classes`, `dropout_rate` and `dtype`; `kernel_init` draws the linear layer.
    (N, H, W, C) -> float32 logits.
    """
    x = ACTIVATIONS[act](norm(name='bn2')(conv(width, 1, name='conv_head')(x)))
    x = jnp.mean(x, (1, 2))
    net.sow('intermediates', 'pre_logits', x)
    x = nn.Dropout(net.dropout_rate, deterministic=not train)(x)
    dense = Dense(net.num_classes, dtype=net.dtype, kernel_init=kernel_init, name='classifier')
    return dense(x).astype(jnp.float32)

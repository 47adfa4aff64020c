"""Inverted residuals, and networks of them as strings.

A block of MobileNetV2 (Sandler et al. 2018, 1801.04381) expands its input by a 1x1 convolution,
filters it depthwise, and projects it to few channels without a rectifier, with the shortcut between
the narrow ends. MnasNet (Tan et al. 2019, 1807.11626) describes a network of such blocks by
strings, one for each run of equal blocks, and searches for them; ProxylessNAS, MobileNetV3 and
EfficientNet followed. The letters are those of MnasNet's code:

  r2_k5_s2_e6_o40_se0.25    two blocks with 5x5 windows, the first with stride 2, expansion 6,
                            40 output channels, gates (squeeze and excite) of a quarter;
  noskip                    without shortcuts;
  relu, relu6, swish, hswish   an activation other than the network's;
  fused                     one convolution in place of the expansion and the depthwise one, as in
                            EfficientNet-EdgeTPU; fc24: it expands as many channels as of 24 inputs.

A stage is a tuple of such strings, and its blocks are numbered in order. Names of layers are those
of timm, except in blocks with expansion 1: these have no `conv_pw`, and their other layers keep
their names.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.errors import UserError
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
    """Returns the multiple of `divisor` nearest to a width, or the next if that is below 90 %."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * width else rounded + divisor


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of equal blocks; only the first has the stride."""

    repeats: int
    window: int
    strides: int
    expansion: float
    features: int
    gate: float = 0.0  # relative width of the inner layer of the gates; 0: no gates
    skip: bool = True
    act: str = ''
    fused: bool = False
    inputs: int = 0  # channels that a fused block expands, if not those of its input


def decode(text: str) -> Run:
    """Returns the run of blocks of a string (see the module).

    Raises ValueError for a string that cannot be read, or for numbers out of range.
    """
    types = {'r': int, 'k': int, 's': int, 'e': float, 'o': int, 'se': float, 'fc': int}
    values: dict[str, Any] = {'se': 0.0, 'fc': 0}
    skip, act, fused = True, '', False
    for part in text.split('_'):
        match = re.fullmatch(r'(r|k|s|e|o|se|fc)(\d+(?:\.\d+)?)', part)
        if part == 'noskip':
            skip = False
        elif part == 'fused':
            fused = True
        elif part in ACTIVATIONS:
            act = part
        elif match and not (types[match[1]] is int and '.' in match[2]):
            if values.get(match[1]):
                raise ValueError(f'{text!r} has {match[1]} twice')
            values[match[1]] = types[match[1]](match[2])
        else:
            raise ValueError(
                f'cannot read {part!r} in {text!r}: expected r, k, s, e, o, se or fc with a '
                f'number, noskip, fused, {" or ".join(ACTIVATIONS)}'
            )
    missing = [letter for letter in types if letter not in values]
    if missing:
        raise ValueError(f'{text!r} lacks {", ".join(missing)}')
    if min(values[letter] for letter in 'rksoe') < 1:
        raise ValueError(f'{text!r}: expected r, k, s, e and o of at least 1')
    if values['k'] % 2 == 0:
        raise ValueError(f'{text!r}: expected an odd k')
    inputs = values.pop('fc')
    if (inputs and not fused) or (values['se'] and fused):
        raise ValueError(f'{text!r}: expected fc only, and no gates, in fused blocks')
    numbers = (values[letter] for letter in types if letter in values)
    return Run(*numbers, skip=skip, act=act, fused=fused, inputs=inputs)


@dataclasses.dataclass(frozen=True)
class Genotype:
    """The stages of a network, each of one or more strings.

    Raises ValueError for a string that `decode` refuses.
    """

    stages: tuple[tuple[str, ...], ...]

    @property
    def num_layers(self) -> int:
        """The number of blocks."""
        return sum(decode(part).repeats for stage in self.stages for part in stage)

    def __post_init__(self):
        for text in self.stages:
            for part in text:
                decode(part)


def scaled(
    genotype: Genotype, width: float = 1.0, depth: float = 1.0, divisor: int = 8
) -> list[list[Run]]:
    """Returns the runs of each stage, scaled.

    Args:
      genotype: the network.
      width: factor of channels, see `round_channels`.
      depth: factor of repetitions, rounded up.
      divisor: of the channels, see `round_channels`.
    """
    return [
        [
            dataclasses.replace(
                run,
                features=round_channels(run.features * width, divisor),
                inputs=round_channels(run.inputs * width, divisor) if run.inputs else 0,
                repeats=math.ceil(run.repeats * depth),
            )
            for run in map(decode, stage)
        ]
        for stage in genotype.stages
    ]


def blocks(runs: Sequence[Sequence[Run]]) -> list[tuple[str, Run]]:
    """Returns the name of each block, `blocks.S.I`, and the block as a run of length 1.

    Raises UserError for more blocks than config.limits.layers.
    """
    check_layers(sum(run.repeats for stage in runs for run in stage), 'the network')
    return [block for s, stage in enumerate(runs) for block in _blocks_of(s, stage)]


def _blocks_of(s: int, stage: Sequence[Run]) -> list[tuple[str, Run]]:
    each = [
        dataclasses.replace(run, repeats=1, strides=run.strides if i == 0 else 1)
        for run in stage
        for i in range(run.repeats)
    ]
    return [(f'blocks.{s}.{i}', run) for i, run in enumerate(each)]


# From the names here to timm's, for networks with expansion 1 in the first stage.
TIMM = (
    (r'^(blocks\.0\.\d+)\.conv_pwl\.', r'\1.conv_pw.'),
    (r'^(blocks\.0\.\d+)\.bn2\.', r'\1.bn1.'),
    (r'^(blocks\.0\.\d+)\.bn3\.', r'\1.bn2.'),
)
# pytorchcv's names of the parts of blocks that it has as `pytorchcv` names them, and of the ends.
PYTORCHCV = (
    (r'^conv_stem\.', 'features.init_block.conv.'),
    (r'^bn1\.', 'features.init_block.bn.'),
    (r'^conv_head\.', 'features.final_block.conv.'),
    (r'^bn2\.', 'features.final_block.bn.'),
    (r'^classifier\.', 'output.'),
    (r'\.conv_pw\.', '.conv1.conv.'),
    (r'\.conv_dw\.', '.conv2.conv.'),
    (r'\.conv_pwl\.', '.conv3.conv.'),
    (r'\.bn(\d)\.', r'.conv\1.bn.'),
)


def renames(modules: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Returns renames for the parameters of modules, from pairs (our name, their name)."""
    return tuple((rf'^{re.escape(ours)}\.(\w+)$', rf'{theirs}.\1') for ours, theirs in modules)


def from_timm(modules: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Returns renames from timm's names to another package's, from pairs as for `renames`."""
    return renames((_timm(f'{ours}.')[:-1], theirs) for ours, theirs in modules)


def _timm(name: str) -> str:
    for pattern, replacement in TIMM:
        name = re.sub(pattern, replacement, name)
    return name


def pytorchcv(runs: Sequence[Sequence[Run]]) -> tuple[tuple[str, str], ...]:
    """Returns pairs from the names of blocks to pytorchcv's, whose stages begin with a stride."""
    pairs, stage, unit = [], 0, 0
    for s, of_stage in enumerate(runs):
        if s == 0 or of_stage[0].strides > 1:
            stage, unit = stage + 1, 0
        for name, _ in _blocks_of(s, of_stage):
            unit += 1
            pairs.append((rf'^{re.escape(name)}\.', f'features.stage{stage}.unit{unit}.'))
    return tuple(pairs)


def share_of_input(share: float, channels: int, expanded: int) -> int:
    """Returns the inner width of gates, relative to the input (MnasNet, EfficientNet).

    Args:
      share: relative width.
      channels: channels of the input of the block.
      expanded: channels after the expansion.
    """
    return max(1, int(channels * share))


class FusedResidual(nn.Module):
    """A block of a convolution that expands, and 1x1 projection (EfficientNet-EdgeTPU).

    Fields are those of InvertedResidual and Run.
    """

    features: int
    window: int
    strides: int
    expansion: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    act: Activation = nn.relu
    skip: bool = True
    inputs: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: jax.Array | float = 0.0) -> jax.Array:
        """Maps (N, H, W, C) to (N, H / strides, W / strides, features), as InvertedResidual."""
        expanded = round_channels((self.inputs or x.shape[-1]) * self.expansion)
        y = self.conv(expanded, self.window, self.strides, name='conv_exp')(x)
        y = self.act(self.norm(name='bn1')(y))
        y = self.norm(name='bn2')(self.conv(self.features, 1, name='conv_pwl')(y))
        if not (self.skip and self.strides == 1 and x.shape[-1] == self.features):
            return y
        return x + path_of(self, y, drop_rate)


class InvertedResidual(nn.Module):
    """A block of 1x1 expansion, depthwise convolution, gates and 1x1 projection.

    MobileNetV2, figure 4b. With `groups`, the 1x1 convolutions are grouped (IGCV3): the first is
    present even without expansion, and a channel shuffle replaces its rectifier.
    """

    features: int
    window: int
    strides: int
    expansion: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    act: Activation = nn.relu6
    gate: float = 0.0  # relative width of the inner layer of the gates; 0: no gates
    gate_width: Callable[[float, int, int], int] = share_of_input
    gate_act: Activation | None = None  # inside the gates; None: `act`
    gate_function: Activation = nn.sigmoid
    gate_first: bool = False  # the gates of a block that expands precede the activation
    skip: bool = True
    groups: int = 1
    divisor: int = 8  # of the expanded channels, without groups
    always_expands: bool = False  # by a 1x1 convolution also with expansion 1

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: jax.Array | float = 0.0) -> jax.Array:
        """Maps (N, H, W, C) to (N, H / strides, W / strides, features), rounded up.

        Args:
          x: (N, H, W, C).
          drop_rate: drop rate of the residual, per example.
        """
        channels = x.shape[-1]
        divisor = self.divisor if self.groups == 1 else self.groups
        expanded = channels
        if self.expansion != 1:
            expanded = round_channels(channels * self.expansion, divisor)
        y = x
        if self.expansion != 1 or self.groups > 1 or self.always_expands:
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
        y = self.norm(name='bn2')(y)
        gate_first = self.gate_first and self.expansion != 1
        y = y if gate_first else self.act(y)
        if self.gate:
            inner, act = self.gate_width(self.gate, channels, expanded), self.gate_act or self.act
            names = ('conv_reduce', 'conv_expand')
            y = SqueezeExcite(inner, self.conv, act, self.gate_function, names, name='se')(y)
        y = self.act(y) if gate_first else y
        y = self.conv(self.features, 1, groups=self.groups, name='conv_pwl')(y)
        y = self.norm(name='bn3')(y)
        if not (self.skip and self.strides == 1 and channels == self.features):
            return y
        return x + path_of(self, y, drop_rate)


def stages(
    module: nn.Module,
    x: jax.Array,
    runs: Sequence[Sequence[Run]],
    block: Callable[..., nn.Module],
    act: str,
    drop_rate: float = 0.0,
    fused: Callable[..., nn.Module] | None = None,
) -> jax.Array:
    """Returns x after all blocks, `blocks.S.I`; outputs of stages are sown as `stage1`, ....

    Args:
      module: the network.
      x: (N, H, W, C).
      runs: the runs of each stage.
      block: constructor of InvertedResidual, with the fields common to all blocks.
      act: name of the activation of runs without one.
      drop_rate: limit of the rates of residuals; they grow linearly from 0 in the first block.
      fused: constructor of FusedResidual likewise, None for a network without them.
    """
    total, index = len(blocks(runs)), 0
    for s, stage in enumerate(runs):
        for name, run in _blocks_of(s, stage):
            shape = (run.features, run.window, run.strides, run.expansion)
            shared = {'act': ACTIVATIONS[run.act or act], 'skip': run.skip, 'name': name}
            if run.fused and fused:
                make = fused(*shape, inputs=run.inputs, **shared)
            elif run.fused:
                raise UserError(f'{type(module).__name__} has no fused blocks: expected none')
            else:
                make = block(*shape, gate=run.gate, **shared)
            x = make(x, drop_rate * index / total)
            index += 1
        module.sow('intermediates', f'stage{s + 1}', x)
    return x


def stem(
    module: nn.Module,
    images: jax.Array,
    width: int,
    conv: Callable[..., nn.Module],
    norm: Callable[..., nn.Module],
    act: str,
) -> jax.Array:
    """Returns a 3x3 convolution of images with stride 2; sown as `stem`.

    Args:
      module: the network.
      images: (N, H, W, C).
      width: channels.
      conv: constructor of convolutions.
      norm: constructor of normalizations.
      act: name of the activation.

    Returns:
      (N, H / 2, W / 2, width), rounded up.
    """
    x = ACTIVATIONS[act](norm(name='bn1')(conv(width, 3, 2, name='conv_stem')(images)))
    module.sow('intermediates', 'stem', x)
    return x


def head(
    module: nn.Module,
    x: jax.Array,
    width: int,
    conv: Callable[..., nn.Module],
    norm: Callable[..., nn.Module],
    act: str,
    train: bool,
    kernel_init: Any = Dense.kernel_init,
    use_bias: bool = True,
) -> jax.Array:
    """Returns float32 logits (N, num_classes).

    A 1x1 convolution, the mean over all pixels (sown as `pre_logits`), dropout, a linear layer.

    Args:
      module: the network; has `num_classes`, `dropout_rate` and `dtype`.
      x: (N, H, W, C).
      width: channels of the convolution.
      conv: constructor of convolutions.
      norm: constructor of normalizations.
      act: name of the activation.
      train: whether dropout is on.
      kernel_init: initializer of the linear layer.
      use_bias: whether the linear layer has a bias.
    """
    x = ACTIVATIONS[act](norm(name='bn2')(conv(width, 1, name='conv_head')(x)))
    x = jnp.mean(x, (1, 2))
    module.sow('intermediates', 'pre_logits', x)
    x = nn.Dropout(module.dropout_rate, deterministic=not train)(x)
    dense = Dense(
        module.num_classes,
        use_bias=use_bias,
        dtype=module.dtype,
        kernel_init=kernel_init,
        name='classifier',
    )
    return dense(x).astype(jnp.float32)

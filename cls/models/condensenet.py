"""CondenseNet: An Efficient DenseNet using Learned Group Convolutions (CVPR 2018).

Huang, Liu, van der Maaten, Weinberger; https://arxiv.org/abs/1711.09224

What is new: the 1x1 convolutions of a DenseNet learn which inputs each of their G groups of outputs
needs. Training begins with all connections; its first half has C - 1 condensing stages, and each
ends by pruning, from every group, the 1/C of the inputs whose weights have the least magnitude, so
that 1/C of them remain. A group lasso makes a group's weights agree on which these are. Every layer
sees those of all blocks (average pooling between blocks takes the place of transitions), and the
growth rate doubles from block to block.

A net has two forms. The one that is trained (`..._learned`) has whole kernels and masks. The one
for inference is `converted`: an index layer gathers, group by group, the inputs that remained, and
an ordinary group convolution and a shuffle of channels do the rest. `condense` turns the variables
of the first into those of the second, `python -m cls.tools.condense` a run.

Agrees with: converted ImageNet nets with pytorchcv; all else with a restatement of the authors'
code, github.com/ShichenLiu/CondenseNet.

Departs from that code: what a stage prunes is missing from the step after the one that begins the
stage, not from that step on, so that one state of the net means the same in training and in
evaluation; a group lasso ends with the C - 1 stages, where that code has G - 1 (the same for C =
G). The classifier loses half its inputs halfway through training, as the paper has it (section 4.2:
a group of its own, C = 2), and not when it is converted, so that converting changes no logit.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cls.errors import UserError
from cls.models.registry import System, Variant, register
from cls.nn import init
from cls.nn.conv import Conv, conv
from cls.nn.dense import Dense
from cls.nn.norm import BatchNorm
from cls.nn.pool import avg_pool
from cls.nn.shuffle import channel_shuffle
from cls.nn.units import NormConv

SYSTEM = System(
    name='CondenseNet',
    title='CondenseNet: An Efficient DenseNet using Learned Group Convolutions',
    venue='CVPR 2018',
    arxiv='1711.09224',
    top1=73.8,
    top5=91.7,
    headline='condensenet74_c4_g4',
    params=4.8,
    macs=529,
)

BOTTLENECK = 4  # channels between a layer's convolutions, in units of its growth rate
CLASSIFIER = 1, 2  # the groups of the classifier, and its condensation factor


def stage(progress: jax.Array | float, factor: int) -> jax.Array:
    """Returns how many condensing stages have ended, 0 to factor - 1, an int32 scalar.

    Stages share the first half of training equally (section 3.1). `progress` is from 0 to 1.
    """
    return jnp.sum(2 * progress * (factor - 1) >= jnp.arange(1, factor))


def pruned(mask: jax.Array, kernel: jax.Array, count: jax.Array) -> jax.Array:
    """Returns a mask in which each group has lost `count` inputs in all; none comes back.

    Args:
      mask: (I, G) bool, whether group g still sees input i.
      kernel: (I, O); output o belongs to group o mod G. Inputs go in the order of the sum of the
        magnitudes of a group's weights (section 3.1), those of an equal sum in their own.
      count: an integer scalar, not less than the inputs that are lost already.
    """
    inputs, groups = mask.shape

    def prune():
        importance = jnp.sum(jnp.abs(kernel).reshape(inputs, -1, groups), axis=1)
        importance = jnp.where(mask, importance, -1.0)  # what is lost stays lost
        rank = jnp.argsort(jnp.argsort(importance, axis=0), axis=0)
        return mask & (rank >= count)

    # Few steps begin a stage; the others need not sort.
    return jax.lax.cond(jnp.sum(~mask[:, 0]) < count, prune, lambda: mask)


def group_lasso(mask: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the sum over groups and inputs of the norm of their weights (section 3.1).

    A norm below 1e-3 counts as that and pulls no further, as in the authors' code. The arguments
    are those of `pruned`.
    """
    inputs, groups = mask.shape
    squares = jnp.sum(jnp.square(kernel).reshape(inputs, -1, groups), axis=1) * mask
    return jnp.sum(jnp.sqrt(jnp.maximum(squares, 1e-6)))


class LearnedGroups(nn.Module):
    """A 1x1 convolution of images, or a linear layer of vectors, that learns groups.

    Parameters: `kernel` (1, 1, I, features) or (I, features), `bias` (features,); and among the
    statistics `mask` (I, groups), bool. In training it sows the group lasso into 'penalties'.

    Raises ValueError when groups do not divide the features, or the factor the inputs.
    """

    features: int
    train: bool
    groups: int
    factor: int  # C, how many times fewer inputs a group ends with
    lasso: float = 0.0  # what the group lasso is multiplied by
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = init.he_normal_fan_out
    bias_init: Callable = init.zeros
    mask_init: Callable = init.all_true

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | float) -> jax.Array:
        """Maps (N, H, W, I) or (N, I) to as many `features`, at a progress from 0 to 1."""
        inputs = x.shape[-1]
        if inputs % self.factor or self.features % self.groups:
            raise UserError(
                f'{inputs} inputs are to be condensed by {self.factor}, and {self.features} '
                f'outputs to be in {self.groups} groups: expected multiples'
            )
        shape = (1,) * (x.ndim - 2) + (inputs, self.features)
        kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
        state = self.variable(
            'batch_stats', 'mask', self.mask_init, None, (inputs, self.groups), jnp.bool_
        )
        mask, matrix = state.value, kernel.reshape(inputs, self.features)
        if self.train and not self.is_initializing():
            now = stage(progress, self.factor)
            if self.lasso:
                penalty = group_lasso(mask, matrix) * (now < self.factor - 1)
                self.sow('penalties', 'group_lasso', self.lasso * penalty)
            count = now * (inputs // self.factor)
            state.value = pruned(mask, jax.lax.stop_gradient(matrix), count)
        kernel = (kernel * jnp.tile(mask, self.features // self.groups)).astype(self.dtype)
        product = conv if x.ndim == 4 else jnp.matmul
        out = product(x.astype(self.dtype), kernel)
        if self.use_bias:
            bias = self.param('bias', self.bias_init, (self.features,), jnp.float32)
            out = out + bias.astype(self.dtype)
        return out


class LearnedConv(nn.Module):
    """Normalisation, rectifier, dropout, and a 1x1 convolution that learns its groups."""

    features: int
    norm: Callable[..., nn.Module]
    dropout: Callable[..., nn.Module]
    learned: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | float) -> jax.Array:
        x = self.dropout()(nn.relu(self.norm(name='bn')(x)))
        return self.learned(self.features, name='conv')(x, progress)


def gathered(module: nn.Module, x: jax.Array, size: int) -> jax.Array:
    """Returns `size` channels of x (..., C): those of the statistic `index` (size,), int32.

    Args:
      module: that the index belongs to; has `index_init`.
      x: (..., C).
      size: may exceed C, as a channel may be wanted by several groups.
    """
    index = module.variable('batch_stats', 'index', module.index_init, None, (size,), jnp.int32)
    return jnp.take(x, index.value, axis=-1, mode='wrap')


class CondensedConv(nn.Module):
    """What a LearnedConv becomes: channels gathered for a group convolution, and a shuffle."""

    features: int
    groups: int
    factor: int
    norm: Callable[..., nn.Module]
    dropout: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    index_init: Callable = init.counting

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | float) -> jax.Array:
        x = gathered(self, x, x.shape[-1] // self.factor * self.groups)
        x = self.dropout()(nn.relu(self.norm(name='bn')(x)))
        x = self.conv(self.features, groups=self.groups, name='conv')(x)
        return channel_shuffle(x, self.groups)


class CondensedLinear(nn.Module):
    """What the learned classifier becomes: a linear layer of the features that remained."""

    features: int
    dtype: Any
    index_init: Callable = init.counting

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | float) -> jax.Array:
        x = gathered(self, x, x.shape[-1] // CLASSIFIER[1])
        return Dense(self.features, dtype=self.dtype, name='linear')(x)


class CondenseUnit(nn.Module):
    """Adds `growth` channels to those of its input."""

    growth: int
    groups: int  # of the 3x3 convolution
    first: Callable[..., nn.Module]
    second: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | float) -> jax.Array:
        y = self.first(BOTTLENECK * self.growth, name='conv1')(x, progress)
        y, _ = self.second(self.growth, 3, groups=self.groups, name='conv2')(y)
        return jnp.concatenate([x, y], axis=-1)


class CondenseNet(nn.Module):
    """Blocks of dense layers with pooling between them, in either form."""

    stage_sizes: Sequence[int]
    growths: Sequence[int]  # of each block's layers; the stem has twice the first
    groups: int = 4  # G, of both convolutions of a layer
    factor: int = 4  # C
    converted: bool = False
    cifar: bool = False  # no stride in the stem
    group_lasso: float = 0.0  # its weight in the loss, while stages last
    dropout_rate: float = 0.0
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, progress: jax.Array | float = 1.0
    ) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits.

        Args:
          images: normalised.
          train: whether batch statistics and dropout are on, and connections are pruned.
          progress: from 0 at the start of training to 1 at its end.
        """
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(BatchNorm, train, group=self.bn_group, dtype=self.dtype)
        dropout = functools.partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        learned = functools.partial(LearnedGroups, train=train, dtype=self.dtype)
        if self.converted:
            first = functools.partial(
                CondensedConv, groups=self.groups, factor=self.factor, conv=conv
            )
            output = CondensedLinear(self.num_classes, self.dtype, name='output')
        else:
            groups = functools.partial(
                learned, groups=self.groups, factor=self.factor, lasso=self.group_lasso
            )
            first = functools.partial(LearnedConv, learned=groups)
            output = learned(
                self.num_classes,
                groups=CLASSIFIER[0],
                factor=CLASSIFIER[1],
                use_bias=True,
                kernel_init=Dense.kernel_init,
                name='output',
            )
        unit = functools.partial(
            CondenseUnit,
            groups=self.groups,
            first=functools.partial(first, norm=norm, dropout=dropout),
            second=functools.partial(NormConv, conv=conv, norm=norm),
        )

        strides = 1 if self.cifar else 2
        x = conv(2 * self.growths[0], 3, strides, name='init_block.conv')(images)
        self.sow('intermediates', 'stem', x)
        for i, (size, growth) in enumerate(zip(self.stage_sizes, self.growths, strict=True), 1):
            if i > 1:
                x = avg_pool(x, 2, 2)
            for j in range(1, size + 1):
                x = unit(growth, name=f'stage{i}.unit{j}')(x, progress)
            self.sow('intermediates', f'stage{i}', x)
        x = jnp.mean(nn.relu(norm(name='post_activ.bn')(x)), (1, 2))
        self.sow('intermediates', 'pre_logits', x)
        return output(x, progress).astype(jnp.float32)


def condense(variables: Any) -> Any:
    """Returns the variables of the converted form that gives the logits of a learned form.

    Args:
      variables: `params` and `batch_stats` of a trained net that is not `converted`, NumPy arrays.

    Raises:
      ValueError: groups of a layer have kept different numbers of inputs, as no training leaves
        them.
    """
    params, stats = {}, {}
    for name, layer in variables['params'].items():
        state = variables['batch_stats'].get(name, {})
        if name == 'output':
            params[name], stats[name] = _condensed_linear(layer, state)
        elif 'conv1' in layer:
            first = _condensed_conv(layer['conv1'], state['conv1'])
            params[name], stats[name] = (
                {**whole, 'conv1': part} for whole, part in zip((layer, state), first, strict=True)
            )
        else:
            params[name] = layer
            stats |= {name: state} if state else {}
    return {'params': params, 'batch_stats': stats}


def kept(mask: np.ndarray) -> np.ndarray:
    """Returns the inputs that each group of a mask (I, G) has kept, in order: (G, n).

    Raises ValueError when the groups have kept different numbers.
    """
    counts = np.sum(mask, axis=0)
    if np.ptp(counts):
        raise ValueError(f'the groups of a mask have kept {counts.tolist()} inputs')
    return np.nonzero(mask.T)[1].reshape(mask.shape[1], -1)


def _condensed_conv(params: Any, stats: Any) -> tuple[Any, Any]:
    """`params` and `batch_stats` of the CondensedConv that a LearnedConv becomes."""
    indices = kept(np.asarray(stats['conv']['mask']))
    groups, size = indices.shape
    kernel = np.asarray(params['conv']['kernel'])[0, 0]
    by_group = kernel.reshape(len(kernel), -1, groups)  # output o belongs to group o mod G
    blocks = [by_group[index, :, group] for group, index in enumerate(indices)]
    flat = indices.reshape(-1)
    scale_and_bias, running = (
        {name: np.asarray(value)[flat] for name, value in of['bn'].items()}
        for of in (params, stats)
    )
    condensed = np.concatenate(blocks, axis=1).reshape(1, 1, size, -1)
    return (
        {'bn': scale_and_bias, 'conv': {'kernel': condensed}},
        {'bn': running, 'index': flat.astype(np.int32)},
    )


def _condensed_linear(params: Any, stats: Any) -> tuple[Any, Any]:
    """The same of the classifier."""
    (index,) = kept(np.asarray(stats['mask']))
    linear = {'kernel': np.asarray(params['kernel'])[index], 'bias': params['bias']}
    return {'linear': linear}, {'index': index.astype(np.int32)}


# Layers of each block, growth rates, other fields; parameters and multiply-adds of the converted
# form; the same of the learned one; the paper's top-1 and top-5, which belong to both (the authors'
# README; CIFAR-10).
IMAGENET, GROWTHS = (4, 6, 8, 10, 8), (8, 16, 32, 64, 128)
CIFAR, GROWTHS_CIFAR = {'cifar': True, 'num_classes': 10}, (8, 16, 32)
NETS = {
    'condensenet74_c4_g4': (
        (IMAGENET, GROWTHS, {}),
        (4_773_944, 516_640_576),
        (11_922_680, 1_267_904_128),
        (73.8, 91.7),
    ),
    'condensenet74_c8_g8': (
        (IMAGENET, GROWTHS, {'groups': 8, 'factor': 8}),
        (2_935_416, 261_545_792),
        (11_103_608, 1_137_847_936),
        (71.0, 90.0),
    ),
    'condensenet50_cifar': (
        ((8,) * 3, GROWTHS_CIFAR, CIFAR),
        (214_186, 27_183_376),
        (522_938, 64_934_432),
        (93.78, None),
    ),
    'condensenet74_cifar': (
        ((12,) * 3, GROWTHS_CIFAR, CIFAR),
        (402_026, 49_204_592),
        (1_090_906, 131_783_392),
        (94.72, None),
    ),
    'condensenet86_cifar': (
        ((14,) * 3, GROWTHS_CIFAR, CIFAR),
        (516_202, 62_377_888),
        (1_451_594, 173_858_624),
        (94.94, None),
    ),
    'condensenet98_cifar': (
        ((16,) * 3, GROWTHS_CIFAR, CIFAR),
        (643_882, 76_992_976),
        (1_863_418, 221_701_024),
        (95.17, None),
    ),
    'condensenet110_cifar': (
        ((18,) * 3, GROWTHS_CIFAR, CIFAR),
        (785_066, 93_049_856),
        (2_326_378, 275_310_592),
        (95.37, None),
    ),
    'condensenet122_cifar': (
        ((20,) * 3, GROWTHS_CIFAR, CIFAR),
        (939_754, 110_548_528),
        (2_840_474, 334_687_328),
        (95.52, None),
    ),
    'condensenet182_cifar': (
        ((30,) * 3, (12, 24, 48), CIFAR),
        (4_209_226, 493_916_592),
        (13_792_906, 1_615_332_192),
        (96.24, None),
    ),
}
RENAMES = ((r'^(?!output)', 'features.'),)
for name, ((sizes, growths, other), converted, learned, accuracy) in NETS.items():
    fields = {'stage_sizes': sizes, 'growths': growths, **other}
    make = functools.partial(Variant, system=SYSTEM, module=CondenseNet, renames=RENAMES)
    make = functools.partial(make, input_size=32 if other is CIFAR else 224)
    make = functools.partial(make, top1=accuracy[0], top5=accuracy[1])
    published = None if other is CIFAR else f'pytorchcv:{name}'
    params, macs = converted
    as_converted = {**fields, 'converted': True}
    register(make(name, fields=as_converted, params=params, macs=macs, reference=published))
    params, macs = learned
    register(make(f'{name}_learned', fields=fields, params=params, macs=macs))

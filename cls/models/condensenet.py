"""CondenseNet: An Efficient DenseNet using Learned Group Convolutions (CVPR 2018).

Huang, Liu, van der Maaten, Weinberger; https://arxiv.org/abs/1711.09224

What is new: the 1x1 convolutions of a DenseNet learn the inputs that each of their G output groups
needs. Training begins with all connections; its first half has C - 1 condensing stages. Each ends
by pruning, from every group, the 1/C of the inputs with the smallest weights, so that 1/C of them
remain. A group lasso makes the weights of a group agree on the inputs to prune. Every layer sees
the layers of all blocks (average pooling between blocks takes the place of transitions), and the
growth rate doubles from block to block.

A network has two forms. The form for training (`..._learned`) has dense kernels and masks. In the
form for inference, `converted`, an index layer gathers the remaining inputs of each group, and an
ordinary group convolution and a channel shuffle follow. `condense` converts the variables of the
first form to those of the second, `python -m cls.tools.condense` a run.

Agrees with: converted ImageNet networks with pytorchcv; all others with an independent
reimplementation of the authors' code, github.com/ShichenLiu/CondenseNet.

Departs from that code: pruning takes effect one step after the step that begins a stage, so that
the same state of the network means the same in training and in evaluation; the group lasso ends
with the C - 1 stages, where that code has G - 1 (the same for C = G). The classifier drops half its
inputs halfway through training, as in the paper (section 4.2: a group of its own, C = 2), and not
during conversion, so that conversion changes no logit.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cls.errors import UserError
from cls.models.registry import System, register_table
from cls.nn import init
from cls.nn.conv import Conv, conv
from cls.nn.dense import Dense
from cls.nn.norm import batch_norm
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
CLASSIFIER = 1, 2  # groups of the classifier, and its condensation factor


def stage(progress: jax.Array | float, factor: int) -> jax.Array:
    """Returns the number of completed condensing stages, 0 to factor - 1, an int32 scalar.

    The stages split the first half of training evenly (section 3.1). `progress` is from 0 to 1.
    """
    return jnp.sum(2 * progress * (factor - 1) >= jnp.arange(1, factor))


def pruned(mask: jax.Array, kernel: jax.Array, count: jax.Array) -> jax.Array:
    """Returns a mask in which each group has `count` pruned inputs; pruned inputs stay pruned.

    Args:
      mask: (I, G) bool, whether group g still sees input i.
      kernel: (I, O); output o belongs to group o mod G. A group prunes inputs by increasing sum of
        the magnitudes of its weights (section 3.1), and by index among equal sums.
      count: an integer scalar, at least the number of inputs pruned already.
    """
    inputs, groups = mask.shape

    def prune():
        importance = jnp.sum(jnp.abs(kernel).reshape(inputs, -1, groups), axis=1)
        importance = jnp.where(mask, importance, -1.0)  # pruned inputs sort first and stay pruned
        rank = jnp.argsort(jnp.argsort(importance, axis=0), axis=0)
        return mask & (rank >= count)

    # Sorting is only needed in the few steps that begin a stage.
    return jax.lax.cond(jnp.sum(~mask[:, 0]) < count, prune, lambda: mask)


def group_lasso(mask: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the sum over groups and inputs of the norm of their weights (section 3.1), a scalar.

    Norms are clipped below at 1e-3, where their gradient is zero, as in the authors' code. The
    arguments are those of `pruned`.
    """
    inputs, groups = mask.shape
    squares = jnp.sum(jnp.square(kernel).reshape(inputs, -1, groups), axis=1) * mask
    return jnp.sum(jnp.sqrt(jnp.maximum(squares, 1e-6)))


class LearnedGroups(nn.Module):
    """A 1x1 convolution of images, or a linear layer of vectors, that learns groups.

    Parameters: `kernel` (1, 1, I, features) or (I, features), `bias` (features,). `batch_stats` has
    `mask` (I, groups), bool. In training the group lasso is sown into 'penalties'.

    Raises UserError when `groups` does not divide the features, or `factor` the inputs.
    """

    features: int
    train: bool
    groups: int
    factor: int  # C, the ratio of initial to final inputs of a group
    lasso: float = 0.0  # weight of the group lasso
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = init.he_normal_fan_out
    bias_init: Callable = init.zeros
    mask_init: Callable = init.all_true

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | float) -> jax.Array:
        """Maps (N, H, W, I) or (N, I) to `features` channels; `progress` is from 0 to 1."""
        inputs = x.shape[-1]
        if inputs % self.factor or self.features % self.groups:
            raise UserError(
                f'{inputs} inputs are to be condensed by {self.factor}, and {self.features} '
                f'outputs to be in {self.groups} groups: expected multiples'
            )
        shape = (1,) * (x.ndim - 2) + (inputs, self.features)
        kernel = init.parameter(self, 'kernel', self.kernel_init, shape)
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
            bias = init.parameter(self, 'bias', self.bias_init, (self.features,))
            out = out + bias.astype(self.dtype)
        return out


class LearnedConv(nn.Module):
    """Normalization, rectifier, dropout, and a 1x1 convolution that learns its groups."""

    features: int
    norm: Callable[..., nn.Module]
    dropout: Callable[..., nn.Module]
    learned: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | float) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, features); `progress` is from 0 to 1."""
        x = self.dropout()(nn.relu(self.norm(name='bn')(x)))
        return self.learned(self.features, name='conv')(x, progress)


def gathered(module: nn.Module, x: jax.Array, size: int) -> jax.Array:
    """Returns `size` channels of x, picked by the variable `index` (size,) int32 of a module.

    Args:
      module: the owner of the index; has `index_init`.
      x: (..., C).
      size: may exceed C, as several groups may read the same channel.
    """
    index = module.variable('batch_stats', 'index', module.index_init, None, (size,), jnp.int32)
    return jnp.take(x, index.value, axis=-1, mode='wrap')


class CondensedConv(nn.Module):
    """A converted LearnedConv: channels gathered for a group convolution, and a shuffle."""

    features: int
    groups: int
    factor: int
    norm: Callable[..., nn.Module]
    dropout: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    index_init: Callable = init.counting

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | float) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, features); `progress` has no effect."""
        x = gathered(self, x, x.shape[-1] // self.factor * self.groups)
        x = self.dropout()(nn.relu(self.norm(name='bn')(x)))
        x = self.conv(self.features, groups=self.groups, name='conv')(x)
        return channel_shuffle(x, self.groups)


class CondensedLinear(nn.Module):
    """The converted classifier: a linear layer of the features that remain."""

    features: int
    dtype: Any
    index_init: Callable = init.counting

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | float) -> jax.Array:
        """Maps (N, C) to (N, features); `progress` has no effect."""
        x = gathered(self, x, x.shape[-1] // CLASSIFIER[1])
        return Dense(self.features, dtype=self.dtype, name='linear')(x)


class CondenseUnit(nn.Module):
    """A dense layer that concatenates `growth` channels to its input."""

    growth: int
    groups: int  # of the 3x3 convolution
    first: Callable[..., nn.Module]
    second: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | float) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, C + growth); `progress` is from 0 to 1."""
        y = self.first(BOTTLENECK * self.growth, name='conv1')(x, progress)
        y, _ = self.second(self.growth, 3, groups=self.groups, name='conv2')(y)
        return jnp.concatenate([x, y], axis=-1)


class CondenseNet(nn.Module):
    """Blocks of dense layers with average pooling in between, in either form."""

    stage_sizes: Sequence[int]
    growths: Sequence[int]  # growth rate of each block; the stem has twice the first
    groups: int = 4  # G, of both convolutions of a layer
    factor: int = 4  # C
    converted: bool = False
    cifar: bool = False  # no stride in the stem
    group_lasso: float = 0.0  # weight in the loss during the condensing stages
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
          images: normalized.
          train: whether to use batch statistics and dropout, and to prune connections.
          progress: from 0 at the start of training to 1 at its end.
        """
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)
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
    """Returns the variables of the converted form with the same logits as a learned form.

    Args:
      variables: `params` and `batch_stats` of a trained network that is not `converted`, NumPy
        arrays.

    Raises:
      ValueError: groups of a layer have kept different numbers of inputs; training never produces
        such masks.
    """
    params, stats = {}, {}
    for name, layer in variables['params'].items():
        state = variables['batch_stats'].get(name, {})
        if name == 'output':
            params[name], stats[name] = _condensed_linear(layer, state)
        elif 'conv1' in layer:
            first = _condensed_conv(layer['conv1'], state['conv1'])
            params[name], stats[name] = (
                {**unit, 'conv1': conv1} for unit, conv1 in zip((layer, state), first, strict=True)
            )
        else:
            params[name] = layer
            stats |= {name: state} if state else {}
    return {'params': params, 'batch_stats': stats}


def kept(mask: np.ndarray) -> np.ndarray:
    """Returns the sorted indices of the inputs that each group of a mask (I, G) keeps: (G, n).

    Raises ValueError when the groups have kept different numbers of inputs.
    """
    counts = np.sum(mask, axis=0)
    if np.ptp(counts):
        raise ValueError(f'the groups of a mask have kept {counts.tolist()} inputs')
    return np.nonzero(mask.T)[1].reshape(mask.shape[1], -1)


def _condensed_conv(params: Any, stats: Any) -> tuple[Any, Any]:
    """Returns `params` and `batch_stats` of the CondensedConv for those of a LearnedConv."""
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
    """Returns `params` and `batch_stats` of the CondensedLinear for those of the classifier."""
    (index,) = kept(np.asarray(stats['mask']))
    linear = {'kernel': np.asarray(params['kernel'])[index], 'bias': params['bias']}
    return {'linear': linear}, {'index': index.astype(np.int32)}


PYTORCHCV = ((r'^(?!output)', 'features.'),)
# The paper's top-1 and top-5 (the authors' README) apply to both forms.
IMAGENET = {
    'condensenet74_c4_g4': (4, 4, True, 4_773_944, 516_640_576, 73.8, 91.7),
    'condensenet74_c4_g4_learned': (4, 4, False, 11_922_680, 1_267_904_128, 73.8, 91.7),
    'condensenet74_c8_g8': (8, 8, True, 2_935_416, 261_545_792, 71.0, 90.0),
    'condensenet74_c8_g8_learned': (8, 8, False, 11_103_608, 1_137_847_936, 71.0, 90.0),
}
register_table(
    IMAGENET,
    'factor groups converted params macs top1 top5',
    system=SYSTEM,
    module=CondenseNet,
    fields={'stage_sizes': (4, 6, 8, 10, 8), 'growths': (8, 16, 32, 64, 128)},
    input_size=224,
    reference=lambda name: None if name.endswith('_learned') else f'pytorchcv:{name}',
    renames=PYTORCHCV,
)


def _cifar(layers: int, growth: int, converted: bool) -> dict[str, Any]:
    """Returns the fields of a CIFAR network with three blocks of `layers`."""
    return {
        'stage_sizes': (layers,) * 3,
        'growths': (growth, 2 * growth, 4 * growth),
        'converted': converted,
        'cifar': True,
        'num_classes': 10,
    }


# Top-1 on CIFAR-10.
CIFAR = {
    'condensenet50_cifar': (8, 8, True, 214_186, 27_183_376, 93.78),
    'condensenet50_cifar_learned': (8, 8, False, 522_938, 64_934_432, 93.78),
    'condensenet74_cifar': (12, 8, True, 402_026, 49_204_592, 94.72),
    'condensenet74_cifar_learned': (12, 8, False, 1_090_906, 131_783_392, 94.72),
    'condensenet86_cifar': (14, 8, True, 516_202, 62_377_888, 94.94),
    'condensenet86_cifar_learned': (14, 8, False, 1_451_594, 173_858_624, 94.94),
    'condensenet98_cifar': (16, 8, True, 643_882, 76_992_976, 95.17),
    'condensenet98_cifar_learned': (16, 8, False, 1_863_418, 221_701_024, 95.17),
    'condensenet110_cifar': (18, 8, True, 785_066, 93_049_856, 95.37),
    'condensenet110_cifar_learned': (18, 8, False, 2_326_378, 275_310_592, 95.37),
    'condensenet122_cifar': (20, 8, True, 939_754, 110_548_528, 95.52),
    'condensenet122_cifar_learned': (20, 8, False, 2_840_474, 334_687_328, 95.52),
    'condensenet182_cifar': (30, 12, True, 4_209_226, 493_916_592, 96.24),
    'condensenet182_cifar_learned': (30, 12, False, 13_792_906, 1_615_332_192, 96.24),
}
register_table(
    CIFAR,
    'layers growth converted params macs top1',
    system=SYSTEM,
    module=CondenseNet,
    fields=_cifar,
    input_size=32,
    renames=PYTORCHCV,
)

"""FractalNet: Ultra-Deep Neural Networks without Residuals (ICLR 2017).

Larsson, Maire, Shakhnarovich; https://arxiv.org/abs/1605.07648

What is new: deep nets without shortcuts, grown by a rule. f_1 is a convolution, and f_{C+1}(z) is
the mean (a join) of f_C(f_C(z)) and of another convolution of z: C columns, of 1 to 2^(C-1)
convolutions in a block. Drop path trains them apart: for a mini-batch either each join loses some
of its inputs, never all (local), or one column is the whole net (global). Each column is then a
good net by itself: `column=k` evaluates column k alone, of 2^(k-1) convolutions per block.

Agrees with: pytorchcv's fractalnet_cifar10 and fractalnet_cifar100, whose names the parameters
bear, in the `_joined` variants: a block's columns are joined and then pooled, as in figure 1. The
authors' implementation (section 3.3; the generator in github.com/gustavla/fractalnet) pools each
column and then joins, which is not the same for a max pool; all other variants do so, and are held
against a restatement. Dropout lies where the authors' code has it: on the convolution's output,
before its normalisation (pytorchcv drops channels behind the rectifier).

Departs from the authors' code, with pytorchcv: normalisation has a learnt scale and shift, and
convolutions no bias. Drop path is sampled for a whole mini-batch, as in section 3.1 and in that
code's join, and a fair coin decides between local and global (that code can also train all columns
beside the net in every step, with tied weights).

The ImageNet net is put together from what is known of it: ResNet-34's first and last layers, four
blocks of four columns, widths 128 to 1024. What the paper does not settle is chosen: a max pool
between blocks and none after the last, which is averaged over.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.errors import UserError
from cls.models.registry import System, Variant, register
from cls.nn import init, residual
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
from cls.nn.pool import max_pool

SYSTEM = System(
    name='FractalNet',
    title='FractalNet: Ultra-Deep Neural Networks without Residuals',
    venue='ICLR 2017',
    arxiv='1605.07648',
    top1=75.8,
    top5=92.61,
    headline='fractalnet34',
)


def live_inputs(
    key: jax.Array, columns: Sequence[int], chosen: jax.Array, drop_rate: float
) -> jax.Array:
    """Which inputs of a join live in a mini-batch: (len(columns),) bool, at least one.

    Args:
      key: of this join.
      columns: that meet here.
      chosen: the column that is the net, or 0 for local sampling.
      drop_rate: of an input, in local sampling.
    """
    keep_key, survivor_key = jax.random.split(key)
    keep = jax.random.bernoulli(keep_key, 1 - drop_rate, (len(columns),))
    survivor = jax.random.randint(survivor_key, (), 0, len(columns))
    keep = jnp.where(keep.any(), keep, jnp.arange(len(columns)) == survivor)
    only = jnp.asarray(columns) == chosen
    # Where the chosen column does not pass, nothing that reaches the output is joined.
    return jnp.where(chosen > 0, only | ~only.any(), keep)


def join(inputs: Sequence[jax.Array], live: jax.Array | None = None) -> jax.Array:
    """The mean of the live ones of some (N, H, W, C); of all without `live`."""
    if live is None:
        return sum(inputs) / len(inputs)
    parts = live / live.sum()
    return sum(parts[i].astype(x.dtype) * x for i, x in enumerate(inputs))


def same(x: jax.Array) -> jax.Array:
    return x


class Layer(nn.Module):
    """3x3 convolution, dropout, normalisation, rectifier."""

    width: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    dropout: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.dropout()(self.conv(self.width, 3, name='conv')(x))
        return nn.relu(self.norm(name='bn')(x))


class FractalBlock(nn.Module):
    """f_C, with the reduction that follows it.

    `live` says which inputs of a join live, given a key and the columns that meet there; None: all.
    """

    columns: int
    layer: Callable[..., nn.Module]
    reduce: Callable[[jax.Array], jax.Array]
    live: Callable[[jax.Array, Sequence[int]], jax.Array] | None
    column: int
    join_first: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        steps = 2 ** (self.columns - 1)
        reduce_inputs, reduce_joined = self.reduce, same
        if self.join_first:
            reduce_inputs, reduce_joined = same, self.reduce
        outputs = dict.fromkeys(range(1, self.columns + 1), x)
        for step in range(1, steps + 1):
            # The convolutions of column k take 2^(C-k) steps each; here those of these end.
            ending = [k for k in outputs if step % 2 ** (self.columns - k) == 0]
            if self.column:
                ending = [k for k in ending if k == self.column]
            made = []
            for k in ending:
                name = f'block{step}.subblock{self.columns - k + 1}'
                y = self.layer(name=name)(outputs[k])
                made.append(reduce_inputs(y) if step == steps else y)
            live = None
            if self.live and len(made) > 1:
                live = self.live(self.make_rng('dropout'), ending)
            if made:
                outputs.update(dict.fromkeys(ending, join(made, live)))
        return reduce_joined(outputs[self.column or self.columns])


class FractalNet(nn.Module):
    """Fractal blocks, each followed by a 2x2 max pool.

    With `imagenet`, ResNet's stem is before them and the last pool is not. In training with a
    `column` that column alone is trained: the plain net of the paper's comparison.
    """

    columns: int
    widths: Sequence[int]  # one for each block
    imagenet: bool = False
    join_first: bool = False  # join before the pool at a block's end, as pytorchcv
    column: int = 0  # the one that is computed, from 1; 0: all
    dropout_rate: float = 0.4  # of the last block, falling evenly to 0 in the first
    local_drop_rate: float = 0.15  # of a join's inputs
    global_drop_rate: float = 0.5  # how often a mini-batch has global, not local sampling
    num_classes: int = 10
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits.

        Raises UserError when there is no such column.
        """
        if not 0 <= self.column <= self.columns:
            raise UserError(f'column is {self.column}; there are 1 to {self.columns}, and 0: all')
        # Glorot's initialisation as Caffe has it: the variance is 1 / fan-in.
        kernel_init = init.VarianceScaling(1.0, 'fan_in', 'uniform')
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=kernel_init)
        norm = functools.partial(BatchNorm, train, group=self.bn_group, dtype=self.dtype)
        column = 0 if self.is_initializing() else self.column  # all have parameters
        live = None
        if train and not column and (self.local_drop_rate or self.global_drop_rate):
            coin_key, column_key = jax.random.split(self.make_rng('dropout'))
            one = jax.random.bernoulli(coin_key, self.global_drop_rate)
            chosen = one * jax.random.randint(column_key, (), 1, self.columns + 1)
            live = functools.partial(live_inputs, chosen=chosen, drop_rate=self.local_drop_rate)

        x = images
        if self.imagenet:
            x = residual.stem(self, x, conv, norm, 64)
        last = len(self.widths) - 1
        for i, width in enumerate(self.widths):
            rate = self.dropout_rate * i / max(last, 1)
            dropout = functools.partial(nn.Dropout, rate, deterministic=not train)
            layer = functools.partial(Layer, width, conv, norm, dropout)
            reduce = functools.partial(max_pool, window=2, strides=2)
            if self.imagenet and i == last:
                reduce = same
            block = FractalBlock(
                self.columns, layer, reduce, live, column, self.join_first, name=f'unit{i + 1}'
            )
            x = block(x)
            self.sow('intermediates', f'stage{i + 1}', x)
        return residual.head(self, x, 'output')


# Columns, widths of the blocks, classes, parameters, multiply-adds, and the paper's top-1 with
# translated and mirrored images, dropout and drop path (Table 1).
CIFAR_WIDTHS = (64, 128, 256, 512, 512)
CIFAR = {
    'fractalnet20_c3_cifar': (3, 10, 33_724_618, 845_222_912, 95.40),
    'fractalnet20_c3_cifar100': (3, 100, 33_770_788, 845_268_992, 76.27),
    'fractalnet40_c4_cifar': (4, 10, 76_106_634, 2_036_077_568, None),
}
PYTORCHCV = ((r'^unit(\d)\.', r'features.unit\1.block.blocks.'),)
for name, (columns, classes, params, macs, top1) in CIFAR.items():
    fields = {'columns': columns, 'widths': CIFAR_WIDTHS, 'num_classes': classes}
    known = (32, params, macs, top1)
    register(Variant(name, SYSTEM, FractalNet, fields, *known, renames=PYTORCHCV))
    if columns == 3:
        register(
            Variant(
                f'{name}_joined',
                SYSTEM,
                FractalNet,
                {**fields, 'join_first': True},
                *known[:3],
                reference=f'pytorchcv:fractalnet_cifar{classes}',
                renames=PYTORCHCV,
            )
        )

# Top-1 and top-5 from ten crops (Table 2).
IMAGENET = {
    'columns': 4,
    'widths': (128, 256, 512, 1024),
    'imagenet': True,
    'dropout_rate': 0.0,
    'num_classes': 1000,
}
register(
    Variant(
        'fractalnet34',
        SYSTEM,
        FractalNet,
        IMAGENET,
        224,
        164_031_016,
        24_164_982_784,
        75.88,
        92.61,
        renames=PYTORCHCV,
    )
)

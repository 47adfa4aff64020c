"""FractalNet: Ultra-Deep Neural Networks without Residuals (ICLR 2017).

Larsson, Maire, Shakhnarovich; https://arxiv.org/abs/1605.07648

What is new: deep networks without shortcuts, built by a recursive rule. f_1 is a convolution, and
f_{C+1}(z) is the mean (a join) of f_C(f_C(z)) and of another convolution of z: C columns, of 1 to
2^(C-1) convolutions in a block. Drop path trains the columns apart: for a mini-batch either each
join loses some of its inputs, but never all (local), or the network is a single column (global).
Each column is then a good network by itself: `column=k` evaluates only column k, of 2^(k-1)
convolutions per block.

Agrees with: pytorchcv's fractalnet_cifar10 and fractalnet_cifar100, with the same parameter names,
in the `_joined` variants: the columns of a block are joined and then pooled, as in figure 1. The
authors' implementation (section 3.3; the generator in github.com/gustavla/fractalnet) pools each
column and then joins; for max pooling the two differ. All other variants follow the authors, and
are tested against an independent reimplementation. Dropout is at its place in the authors' code: on
the output of the convolution, before normalization (pytorchcv drops channels after the rectifier).

Departs from the authors' code, with pytorchcv: normalization has a learned scale and shift, and
convolutions have no bias. Drop path is sampled for the mini-batch, as in section 3.1 and in that
code's join, and a fair coin decides between local and global (that code can also train all columns
along with the network in every step, with tied weights).

The ImageNet network is assembled from the known facts: ResNet-34's first and last layers, four
blocks of four columns, widths 128 to 1024. The paper leaves the pooling open; ours is a max pool
between blocks and global average pooling after the last.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.errors import UserError
from cls.models.registry import System, Variant, register, register_table
from cls.nn import init, residual
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
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
    """Returns the mask of the live inputs of a join: (len(columns),) bool, with at least one True.

    Args:
      key: random key of this join.
      columns: the columns that meet in it, from 1.
      chosen: the only column of the network, or 0 for local sampling.
      drop_rate: probability of dropping an input in local sampling.
    """
    keep_key, survivor_key = jax.random.split(key)
    keep = jax.random.bernoulli(keep_key, 1 - drop_rate, (len(columns),))
    survivor = jax.random.randint(survivor_key, (), 0, len(columns))
    keep = jnp.where(keep.any(), keep, jnp.arange(len(columns)) == survivor)
    only = jnp.asarray(columns) == chosen
    # A join without the chosen column does not reach the output; it keeps all inputs.
    return jnp.where(chosen > 0, only | ~only.any(), keep)


def join(inputs: Sequence[jax.Array], live: jax.Array | None = None) -> jax.Array:
    """Returns the mean of those of some (N, H, W, C) that are `live`; None: of all."""
    if live is None:
        total: Any = sum(inputs)
        return total / len(inputs)
    parts = live / live.sum()
    mean: Any = sum(parts[i].astype(x.dtype) * x for i, x in enumerate(inputs))
    return mean


def same(x: jax.Array) -> jax.Array:
    """Returns x."""
    return x


class Layer(nn.Module):
    """3x3 convolution, dropout, normalization, rectifier."""

    width: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    dropout: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, width)."""
        x = self.dropout()(self.conv(self.width, 3, name='conv')(x))
        return nn.relu(self.norm(name='bn')(x))


class FractalBlock(nn.Module):
    """f_C, with the reduction that follows it.

    `live` maps a key and the columns that meet in a join to the mask of its inputs; None: all.
    """

    columns: int
    layer: Callable[..., nn.Module]
    reduce: Callable[[jax.Array], jax.Array]
    live: Callable[[jax.Array, Sequence[int]], jax.Array] | None
    column: int
    join_first: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', C')."""
        steps = 2 ** (self.columns - 1)
        reduce_inputs, reduce_joined = self.reduce, same
        if self.join_first:
            reduce_inputs, reduce_joined = same, self.reduce
        outputs = dict.fromkeys(range(1, self.columns + 1), x)
        for step in range(1, steps + 1):
            # A convolution of column k takes 2^(C-k) steps; those of these columns end in this one.
            ending = [k for k in outputs if step % 2 ** (self.columns - k) == 0]
            if self.column:
                ending = [k for k in ending if k == self.column]
            joined = []
            for k in ending:
                name = f'block{step}.subblock{self.columns - k + 1}'
                y = self.layer(name=name)(outputs[k])
                joined.append(reduce_inputs(y) if step == steps else y)
            live = None
            if self.live and len(joined) > 1:
                live = self.live(self.make_rng('dropout'), ending)
            if joined:
                outputs.update(dict.fromkeys(ending, join(joined, live)))
        return reduce_joined(outputs[self.column or self.columns])


class FractalNet(nn.Module):
    """Fractal blocks, each followed by a 2x2 max pool.

    With `imagenet`, they have ResNet's stem and no last pool. Training with a `column` trains
    only that column: the plain network of the paper's comparison.
    """

    columns: int
    widths: Sequence[int]  # one for each block
    imagenet: bool = False
    join_first: bool = False  # join before the pooling at the end of a block, as pytorchcv
    column: int = 0  # the only column to compute, from 1; 0: all
    dropout_rate: float = 0.4  # of the last block, rising linearly from 0 in the first
    local_drop_rate: float = 0.15  # of a join's inputs
    global_drop_rate: float = 0.5  # share of mini-batches with global sampling
    num_classes: int = 10
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits.

        Raises UserError for a `column` outside 0 to `columns`.
        """
        if not 0 <= self.column <= self.columns:
            raise UserError(f'column is {self.column}; there are 1 to {self.columns}, and 0: all')
        # Glorot initialization in Caffe's form: the variance is 1 / fan-in.
        kernel_init = init.VarianceScaling(1.0, 'fan_in', 'uniform')
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=kernel_init)
        norm = batch_norm(self, train)
        column = 0 if self.is_initializing() else self.column  # all columns have parameters
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


# The paper's top-1 is with translation and mirroring, dropout and drop path (Table 1).
CIFAR = {
    'fractalnet20_c3_cifar': (3, 10, False, 33_724_618, 845_222_912, 95.40),
    'fractalnet20_c3_cifar_joined': (3, 10, True, 33_724_618, 845_222_912, None),
    'fractalnet20_c3_cifar100': (3, 100, False, 33_770_788, 845_268_992, 76.27),
    'fractalnet20_c3_cifar100_joined': (3, 100, True, 33_770_788, 845_268_992, None),
    'fractalnet40_c4_cifar': (4, 10, False, 76_106_634, 2_036_077_568, None),
}
REFERENCES = {
    'fractalnet20_c3_cifar_joined': 'pytorchcv:fractalnet_cifar10',
    'fractalnet20_c3_cifar100_joined': 'pytorchcv:fractalnet_cifar100',
}
PYTORCHCV = ((r'^unit(\d)\.', r'features.unit\1.block.blocks.'),)
register_table(
    CIFAR,
    'columns num_classes join_first params macs top1',
    system=SYSTEM,
    module=FractalNet,
    fields={'widths': (64, 128, 256, 512, 512)},
    input_size=32,
    reference=REFERENCES.get,
    renames=PYTORCHCV,
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

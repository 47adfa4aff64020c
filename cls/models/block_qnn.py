"""Block-QNN: Practical Block-wise Neural Network Architecture Generation (CVPR 2018).

Zhong, Yan, Wu, Shao, Liu; https://arxiv.org/abs/1708.05552

What is new: Q-learning finds one block of a network instead of the whole network. Its reward is
spread over the layers and corrected for the bias of early stopping. The block is repeated, with
pooling in between, on CIFAR and on ImageNet alike. A block is a network structure code: for each
layer its index, its type, its kernel size and one or two layers that it reads; 0 is the input of
the block.

NONE OF THE PUBLISHED BLOCKS IS INCLUDED. The paper shows them only in figures that we could not
obtain, and no implementation that we know of has one. This file has the search space: `Block`
accepts any code of it. The variants named `random0` use a RANDOM block, `random_block(0)`, in a
network of the paper's shape and size. The paper's accuracies do not apply to them, so they have
none.

Tested against an independent reimplementation. Known of the paper's networks: a convolution is a
cell of rectifier, convolution and normalization; all layers that no other layer reads are
concatenated; there are N = 4 blocks in each of three stages on CIFAR, N = 3 with more downsampling
on ImageNet, with 64, 128, 256 and 512 filters. Chosen by us, partly after the public implementation
of the search (elenathfgs/BlockQNN_Keras):
* after every concatenation, including that of the output, a 1x1 cell restores the stage's number of
  filters (as in that code); a sum of unlike channels projects the inputs of another width;
* pooling between stages is 2x2 max pooling, and each doubles the filters (as in that code); pooling
  in a block keeps the size, and averages exclude the padding;
* the stem is a 3x3 convolution with normalization; on ImageNet two with stride 2, with a rectifier
  in between;
* a rectifier before global average pooling; He initialization (as in that code);
* 62 filters in the first stage on CIFAR, for the 6.1 million parameters of the paper's smaller
  CIFAR network.
"""

import dataclasses
import functools
import random
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import init
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import batch_norm
from cls.nn.pool import avg_pool, max_pool
from cls.nn.units import ConvNorm

SYSTEM = System(
    name='Block-QNN',
    title='Practical Block-wise Neural Network Architecture Generation',
    venue='CVPR 2018',
    arxiv='1708.05552',
    top1=77.4,
    top5=93.54,
    headline='block_qnn_random0_imagenet',  # a random block, not the paper's
)

CONV, MAX_POOL, AVG_POOL, IDENTITY, ADD, CONCAT, TERMINAL = range(1, 8)
KERNELS = {CONV: (1, 3, 5), MAX_POOL: (1, 3), AVG_POOL: (1, 3)}  # 0 for other types
MAX_INDEX = 23
Code = tuple[int, int, int, int, int]  # index, type, kernel, first and second layer read


@dataclasses.dataclass(frozen=True)
class Block:
    """A block by its network structure code; (index, 7, 0, 0, 0) may end it.

    Raises ValueError for a code outside the search space.
    """

    layers: tuple[Code, ...]

    def __post_init__(self):
        for position, code in enumerate(self.layers, 1):
            index, kind, kernel, *read = code
            last = position == len(self.layers)
            if index != position or position > MAX_INDEX + last * (kind == TERMINAL):
                raise ValueError(
                    f'{code}: layers are numbered from 1 to {MAX_INDEX}, this is {position}'
                )
            if not CONV <= kind <= TERMINAL:
                raise ValueError(f'{code}: types are 1 to 7')
            if kind == TERMINAL and (not last or kernel or any(read)):
                raise ValueError(f'{code}: type 7 is the last, as ({index}, 7, 0, 0, 0)')
            if kernel not in KERNELS.get(kind, (0,)):
                allowed = ' or '.join(map(str, KERNELS.get(kind, (0,))))
                raise ValueError(f'{code}: the kernel of type {kind} is {allowed}')
            if not all(0 <= source < index for source in read):
                raise ValueError(f'{code}: a layer reads those before it, from 0, the input')
            if kind in (ADD, CONCAT) and read[0] == read[1]:
                raise ValueError(f'{code}: type {kind} reads two different layers')
            if kind not in (ADD, CONCAT) and read[1]:
                raise ValueError(f'{code}: type {kind} reads one layer, the second is 0')
        if not operations(self):
            raise ValueError('a block has at least one layer')


def operations(block: Block) -> list[Code]:
    """Returns the layers of a block, without the terminal code."""
    return [code for code in block.layers if code[1] != TERMINAL]


def sources(code: Code) -> tuple[int, ...]:
    """Returns the indices of the layers that a layer reads."""
    return code[3:] if code[1] in (ADD, CONCAT) else code[3:4]


def loose_ends(block: Block) -> list[int]:
    """Returns the indices of the layers that no other layer reads: the output of the block."""
    read = {source for code in operations(block) for source in sources(code)}
    return [code[0] for code in operations(block) if code[0] not in read]


def random_block(seed: int, layers: int = 10) -> Block:
    """Returns a random block: type, then kernel and sources, each drawn uniformly.

    Args:
      seed: of the draws; a seed gives the same block in every version of Python.
      layers: number of layers, at most 23.
    """
    rng = random.Random(seed)

    def choose(options: Sequence[int]) -> int:
        return options[int(rng.random() * len(options))]  # the one method that Python keeps stable

    codes = []
    for index in range(1, layers + 1):
        kind = choose(range(CONV, TERMINAL if index > 1 else ADD))
        kernel = choose(KERNELS.get(kind, (0,)))
        first = choose(range(index))
        others = [source for source in range(index) if source != first]
        second = choose(others) if kind in (ADD, CONCAT) else 0
        codes.append((index, kind, kernel, first, second))
    return Block(tuple(codes))


RANDOM0 = random_block(0)  # not one of the paper's blocks


class BlockModule(nn.Module):
    """The graph of a block; parameters are under `layer<index>` and `output`."""

    block: Block
    filters: int
    cell: Any  # (features, window, name=)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, C')."""
        states = [x]
        for code in operations(self.block):
            index, kind, kernel, *_ = code
            read, name = [states[source] for source in sources(code)], f'layer{index}'
            if kind == CONV:
                out = self._cell(read[0], kernel, name)
            elif kind in (MAX_POOL, AVG_POOL):
                out = (max_pool if kind == MAX_POOL else avg_pool)(read[0], kernel, 1, None)
            elif kind == IDENTITY:
                out = read[0]
            elif kind == ADD:
                if read[0].shape != read[1].shape:
                    read = [
                        s if s.shape[-1] == self.filters else self._cell(s, 1, f'{name}.{i}')
                        for i, s in enumerate(read, 1)
                    ]
                out = read[0] + read[1]
            else:
                out = self._cell(jnp.concatenate(read, -1), 1, name)
            states.append(out)
        ends = [states[index] for index in loose_ends(self.block)]
        return ends[0] if len(ends) == 1 else self._cell(jnp.concatenate(ends, -1), 1, 'output')

    def _cell(self, x, kernel, name):
        """A pre-activation convolution cell: rectifier, convolution, normalization."""
        return self.cell(self.filters, kernel, name=name)(nn.relu(x))


class BlockQNN(nn.Module):
    """Stages of one block with 2x2 max pooling in between, global pooling, a linear classifier."""

    genotype: Block
    filters: int  # of the first stage; each further stage doubles them
    stage_sizes: Sequence[int] = (4, 4, 4)
    stem_strides: Sequence[int] = (1,)  # of the 3x3 convolutions of the stem
    num_classes: int = 10
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=init.he_normal)
        norm = batch_norm(self, train)
        cell = functools.partial(ConvNorm, conv=conv, norm=norm, act=None)

        x = images
        for i, strides in enumerate(self.stem_strides, 1):
            x = cell(self.filters, 3, strides=strides, name=f'stem{i}')(x if i == 1 else nn.relu(x))
        self.sow('intermediates', 'stem', x)
        for stage, size in enumerate(self.stage_sizes, 1):
            x = x if stage == 1 else max_pool(x, 2, 2)
            filters = self.filters * 2 ** (stage - 1)
            for i in range(1, size + 1):
                name = f'stage{stage}.block{i}'
                x = BlockModule(self.genotype, filters, cell, name=name)(x)
            self.sow('intermediates', f'stage{stage}', x)
        x = jnp.mean(nn.relu(x), (1, 2))
        self.sow('intermediates', 'pre_logits', x)
        x = Dense(self.num_classes, dtype=self.dtype, name='classifier')(x)
        return x.astype(jnp.float32)


CIFAR = {'genotype': RANDOM0, 'filters': 62}
IMAGENET = {
    'genotype': RANDOM0,
    'filters': 64,
    'stage_sizes': (3, 3, 3, 3),
    'stem_strides': (2, 2),
    'num_classes': 1000,
}
register(Variant('block_qnn_random0_cifar', SYSTEM, BlockQNN, CIFAR, 32, 6_080_536, 891_310_512))
register(
    Variant(
        'block_qnn_random0_imagenet', SYSTEM, BlockQNN, IMAGENET, 224, 20_083_496, 3_027_931_136
    )
)

"""GeNet: Genetic CNN (Xie, Yuille; ICCV 2017).

https://arxiv.org/abs/1703.01513

What is new: a bit string encodes the connections between the layers of a network, and a genetic
algorithm works on it. A stage is a graph of numbered nodes, each the sum of its inputs, a
convolution, a normalization and a rectifier; group j of its code has a bit for each of the nodes 1
to j, set if that node feeds node j + 1 (section 3.1). Nodes without inputs read a first convolution
outside the code, nodes without successors are summed and convolved once more, and isolated nodes
are left out; a code of zeros is only the first convolution (section 3.1.1).

The networks are the two of figure 5. On ImageNet VGG's first two stages precede them, and its
linear layers follow; on CIFAR-10 the first convolution of each stage is 5x5 and pooling is 3x3.

No package has these networks. Parameters and multiply-adds equal counts derived independently of
this file, the 22 convolutions of the paper, and the 156M parameters that others report for the
ImageNet networks (Real et al. 2018, 1802.01548, Table 2). Those counts have a bias in addition to
each normalization, and normalize in VGG's stages too. The codes are the printed ones: the right
drawing of figure 5 shows another third stage than the code below it. Chosen by us, as the paper is
silent: 3x3 pooling pads so that 32 pixels become 16, 8 and 4, and images of other sizes are pooled
to the number of bins of the paper's size.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.errors import UserError
from cls.models.registry import System, register_table
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import batch_norm
from cls.nn.pool import adaptive_avg_pool, max_pool
from cls.nn.units import ConvNorm

SYSTEM = System(
    name='GeNet',
    title='Genetic CNN',
    venue='ICCV 2017',
    arxiv='1703.01513',
    top1=72.13,
    top5=90.26,
    headline='genet_2',
    params=156,
)


@dataclasses.dataclass(frozen=True)
class Genotype:
    """The code of each stage: groups of 1, 2, 3, ... bits separated by dashes, as '0-01-100'.

    Raises ValueError for any other string, and without stages.
    """

    stages: tuple[str, ...]

    @property
    def num_layers(self) -> int:
        """Number of convolutions in the graphs of all stages."""
        return sum(len(code.split('-')) + 1 for code in self.stages)

    def __post_init__(self):
        if not self.stages:
            raise ValueError('there is no stage')
        for code in self.stages:
            groups = code.split('-')
            sizes = [len(group) for group in groups]
            if sizes != list(range(1, len(groups) + 1)) or set(code) - set('01-'):
                raise ValueError(
                    f"a stage's code is groups of 1, 2, 3, ... bits as in '0-01-100', not {code!r}"
                )


def graph(code: str) -> dict[int, tuple[int, ...]]:
    """Returns the inputs of each node of a stage, in topological order.

    Node 0 is the first convolution of the stage; the last node is the one outside the code that
    collects the nodes without successors. Isolated nodes are left out; a code of zeros gives {}.
    """
    groups = code.split('-')
    nodes = range(1, len(groups) + 2)
    feeds = {
        node: tuple(i for i, bit in enumerate(groups[node - 2], 1) if bit == '1')
        for node in nodes[1:]
    }
    fed = {i for sources in feeds.values() for i in sources}
    live = [node for node in nodes if node in fed or feeds.get(node)]
    if not live:
        return {}
    last = tuple(node for node in live if node not in fed)
    return {node: feeds.get(node) or (0,) for node in live} | {nodes[-1] + 1: last}


class Stage(nn.Module):
    """The graph of a code, with `width` channels, between the two convolutions outside the code."""

    code: str
    width: int
    input_window: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, width)."""
        node = functools.partial(ConvNorm, self.width, conv=self.conv, norm=self.norm)
        states = {0: node(window=self.input_window, name='node0')(x)}
        for i, sources in graph(self.code).items():
            total: Any = sum(states[source] for source in sources)
            states[i] = node(window=3, name=f'node{i}')(total)
        return states[max(states)]


class GeNet(nn.Module):
    """Stages of genetic codes, each followed by max pooling with stride 2, and linear layers."""

    genotype: Genotype
    widths: Sequence[int]  # of the stages
    stem: Sequence[int] = ()  # widths of preceding VGG stages, of two convolutions each
    input_window: int = 5  # of the first convolution of a stage
    pool_window: int = 3
    bins: int = 4  # height and width of the pooled last feature map
    hidden: Sequence[int] = (1024,)  # outputs of the linear layers before the classifier
    dropout_rate: float = 0.5  # after each of these
    num_classes: int = 10
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits.

        Raises UserError when the genotype has another number of stages than `widths`.
        """
        codes = self.genotype.stages
        if len(codes) != len(self.widths):
            raise UserError(f'the genotype has {len(codes)} stages, but widths is {self.widths}')
        conv = functools.partial(Conv, use_bias=True, dtype=self.dtype)
        norm = batch_norm(self, train)
        pool = functools.partial(max_pool, window=self.pool_window, strides=2, padding='SAME')

        x = images
        for i, width in enumerate(self.stem, 1):
            for j in (1, 2):
                x = ConvNorm(width, 3, conv, norm, name=f'vgg{i}_{j}')(x)
            x = pool(x)
        self.sow('intermediates', 'stem', x)
        for i, (code, width) in enumerate(zip(codes, self.widths, strict=True), 1):
            x = pool(Stage(code, width, self.input_window, conv, norm, name=f'genetic{i}')(x))
            self.sow('intermediates', f'stage{i}', x)

        x = adaptive_avg_pool(x, self.bins)
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # in PyTorch's order (N, C, H, W)
        for i, width in enumerate(self.hidden, 1):
            x = nn.relu(Dense(width, dtype=self.dtype, name=f'fc{i}')(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        self.sow('intermediates', 'pre_logits', x)
        x = Dense(self.num_classes, dtype=self.dtype, name='output')(x)
        return x.astype(jnp.float32)


# Figure 5; the first is also the best individual of the last generation in Table 2.
GENET_1 = Genotype(('1-01', '0-01-100', '0-11-101-0001'))
GENET_2 = Genotype(('1-01', '1-01-100', '0-11-101-0001'))

IMAGENET = {
    'widths': (256, 512, 512),
    'stem': (64, 128),
    'input_window': 3,
    'pool_window': 2,
    'bins': 7,
    'hidden': (4096, 4096),
    'num_classes': 1000,
}
CIFAR = {'widths': (64, 128, 256)}

# Top-1 and top-5 are the paper's (Table 4 for ImageNet).
TABLE = {
    'genet_1': (GENET_1, IMAGENET, 224, 156_073_000, 26_568_392_704, 71.88, 90.05),
    'genet_1_cifar': (GENET_1, CIFAR, 32, 9_666_698, 680_208_384, 92.81, None),
    'genet_2': (GENET_2, IMAGENET, 224, 156_073_000, 26_568_392_704, 72.13, 90.26),
    'genet_2_cifar': (GENET_2, CIFAR, 32, 9_666_698, 680_208_384, 92.90, None),
}
register_table(
    TABLE,
    'genotype fields input_size params macs top1 top5',
    system=SYSTEM,
    module=GeNet,
)

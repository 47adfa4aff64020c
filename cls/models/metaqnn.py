"""MetaQNN: Designing Neural Network Architectures using Reinforcement Learning (ICLR 2017).

Baker, Gupta, Naik, Raskar; https://arxiv.org/abs/1611.02167

What is new: an agent that learns by Q-learning to choose the layers of a plain convolutional
network one after the other. A network is a string of layers: C(width, window, stride) is a
convolution, P(window, stride) a max pool, FC(width) a linear layer, GAP(width) a 1x1 convolution
with global average pooling, and SM, always the last, the linear classifier. Rectifiers follow all
layers but pools and SM; there is no normalization. Dropout of increasing rate follows every second
layer and every linear one.

Agrees with: the authors' Caffe files (github.com/bowenbaker/metaqnn) in parameter names, layers,
padding, dropout and initialization; logits are tested against an independent reimplementation. The
networks for CIFAR-10 and SVHN are those of the paper's Tables A2 and A3, in their order. The
networks for MNIST are those of the authors' files mnist_0 to mnist_9. The paper's 0.44 % belongs to
one network of its Table A4, but we could not identify it among these, so none has an accuracy here.
Counts are for images of three channels, as for all variants; gray images take 2 * window^2 * width
parameters fewer.

Pooling gives floor((n - window + 1) / stride) pixels: under this rule, and not under Caffe's own
(rounding up) or PyTorch's, the networks have the tables' numbers of parameters: 11.26, 2.2, 2.46,
1.13, 1.62 million for CIFAR-10; 10.38, 6.83, 10.05 for three of SVHN's. The first and the fourth of
SVHN have 10.54 and 7.92 million for the table's 9.81 and 6.99; no pooling rule and no change of a
single layer gives those.

Departs from the authors' files: those for MNIST have dropout of 0.5 in the last two places, 0.4 in
the two before and 0.3 in all others, while all networks here follow the paper's i / 2n.

Rules that only restrict the search are in cls.search.spaces.metaqnn: the largest depth (12 on SVHN,
18 on CIFAR-10), linear layers only on 7x7 pixels or fewer, windows smaller than the image. Widths
may be any; the search has 64, 128, 256 and 512, and for linear layers 512, 256 and 128.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.errors import UserError
from cls.models.registry import System, Variant, register, register_table
from cls.nn import init
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.pool import max_pool

SYSTEM = System(
    name='MetaQNN',
    title='Designing Neural Network Architectures using Reinforcement Learning',
    venue='ICLR 2017',
    arxiv='1611.02167',
    top1=None,  # CIFAR, SVHN and MNIST only
    top5=None,
    headline='metaqnn_1_cifar',
    params=11.26,
)

ARGUMENTS = {'C': 3, 'P': 2, 'FC': 1, 'GAP': 1}  # number of arguments of each kind of layer
WINDOWS = (1, 3, 5)  # of a convolution
POOLS = ((5, 3), (3, 2), (2, 2))  # window and stride
MAX_LINEAR = 2


@dataclasses.dataclass(frozen=True)
class Chain:
    """A network of MetaQNN's grammar: strings such as 'C(512,5,1)', 'P(2,2)', 'FC(512)', 'GAP(10)'.

    The classifier is implied; 'SM' or 'SM(10)' may end the layers without effect on the number of
    classes. Raises ValueError for a string outside the grammar.
    """

    layers: tuple[str, ...]

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def __post_init__(self):
        kinds, last_width = [], None
        for kind, numbers in parse(self):
            text = f'{kind}({",".join(map(str, numbers))})'
            if 0 in numbers:
                raise ValueError(f'{text}: numbers are positive')
            if kind == 'C' and (numbers[1] not in WINDOWS or numbers[2] != 1):
                raise ValueError(f'{text}: a convolution has window 1, 3 or 5 and stride 1')
            if kind == 'P' and numbers not in POOLS:
                raise ValueError(f'{text}: a pool is P(5,3), P(3,2) or P(2,2)')
            if kind == 'P' and kinds[-1:] in ([], ['P']):
                raise ValueError(f'{text}: a pool is neither the first layer nor after another')
            if 'GAP' in kinds or ('FC' in kinds and kind != 'FC'):
                raise ValueError(f'{text}: cannot come after {kinds[-1]}')
            if kind == 'FC' and last_width is not None and numbers[0] > last_width:
                raise ValueError(f'{text}: a linear layer is no wider than the one before it')
            kinds.append(kind)
            last_width = numbers[0] if kind == 'FC' else None
        if kinds.count('FC') > MAX_LINEAR:
            raise ValueError(f'{kinds.count("FC")} linear layers: at most {MAX_LINEAR}')


def parse(chain: Chain) -> list[tuple[str, tuple[int, ...]]]:
    """Returns (kind, numbers) of each layer but SM. Raises ValueError for any other string."""
    layers = chain.layers
    if layers and re.fullmatch(r'SM(\(\d+\))?', layers[-1]):
        layers = layers[:-1]
    parsed = []
    for text in layers:
        match = re.fullmatch(r'(\w+)\((\d+(?:,\d+)*)\)', text.replace(' ', ''))
        numbers = tuple(map(int, match[2].split(','))) if match else ()
        if not match or ARGUMENTS.get(match[1]) != len(numbers):
            raise ValueError(
                f'{text!r} is no layer: write C(width,window,1), P(window,stride), FC(width), '
                f'GAP(width), or SM at the end'
            )
        parsed.append((match[1], numbers))
    return parsed


def dropouts(kinds: list[str]) -> list[float]:
    """Returns the dropout after each layer, as a share of the highest rate; 0 for no dropout.

    Dropout follows every second layer, and every linear one; the i-th of n has i / n. As in the
    authors' code (state_string_utils.py), n is counted as if SM were one more layer of the last
    kind, and so may exceed the actual number.

    Args:
      kinds: C, P, FC or GAP, of each layer.
    """
    counted = [*kinds, *kinds[-1:]]
    linear, averages = counted.count('FC'), counted.count('GAP')
    n = (len(counted) - linear - averages) // 2 + linear
    shares, i = [], 0
    for position, kind in enumerate(kinds, 1):
        drops = kind != 'GAP' and (position % 2 == 0 or kind == 'FC') and i < n
        i += drops
        shares.append(i / n if drops else 0.0)
    return shares


def floor_pool(x: jax.Array, window: int, strides: int) -> jax.Array:
    """Returns the max pool of (N, H, W, C) to floor((n - window + 1) / strides) pixels a side.

    Windows begin at the top left. If the window fits only once, and this formula gives 0, the
    result has one pixel: networks of the search have such pools. Raises UserError for a window
    larger than the image.
    """
    outputs = [max((n - window + 1) // strides, int(n >= window)) for n in x.shape[1:3]]
    if min(outputs) < 1:
        raise UserError(f'P({window},{strides}) leaves nothing of {x.shape[1]}x{x.shape[2]}')
    height, width = ((n - 1) * strides + window for n in outputs)
    return max_pool(x[:, :height, :width], window, strides)


class MetaQNN(nn.Module):
    """The layers of a string one after the other, then a linear classifier."""

    genotype: Chain
    dropout_rate: float = 0.5  # the highest: the i-th dropout of n has i / n of it
    num_classes: int = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits.

        Linear layers fit only the image size of the initialization.
        """
        xavier = init.VarianceScaling(1.0, 'fan_in', 'uniform')  # Caffe's
        conv = functools.partial(Conv, use_bias=True, dtype=self.dtype, kernel_init=xavier)
        dense = functools.partial(Dense, dtype=self.dtype, kernel_init=xavier)

        layers = parse(self.genotype)
        kinds = [kind for kind, _ in layers]
        last_map = max((i for i, kind in enumerate(kinds) if kind in 'CP'), default=-1)
        counts = dict.fromkeys(('Convolution', 'InnerProduct', 'stage'), 0)

        def name(kind):
            counts[kind] += 1
            return f'{kind}{counts[kind]}'

        x = images
        if last_map < 0:
            self.sow('intermediates', 'stage1', x)
        for i, ((kind, numbers), share) in enumerate(zip(layers, dropouts(kinds), strict=True)):
            if kind == 'P':
                x = floor_pool(x, *numbers)
            elif kind == 'FC':
                x = nn.relu(dense(numbers[0], name=name('InnerProduct'))(_flat(x)))
            else:
                window = numbers[1] if kind == 'C' else 1
                x = nn.relu(conv(numbers[0], window, name=name('Convolution'))(x))
            if kind == 'GAP':
                x = jnp.mean(x, (1, 2))
            if kind == 'P' or i == last_map:
                self.sow('intermediates', name('stage'), x)
            if share:
                x = nn.Dropout(share * self.dropout_rate, deterministic=not train)(x)
        x = _flat(x)
        self.sow('intermediates', 'pre_logits', x)
        x = dense(self.num_classes, name=name('InnerProduct'))(x)
        return x.astype(jnp.float32)


def _flat(x):
    """Returns x flattened in the order (N, C, H, W) of Caffe and PyTorch, or x if already flat."""
    return x if x.ndim == 2 else x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def chain(text: str) -> Chain:
    """Returns the network of a string of layers that spaces separate."""
    return Chain(tuple(text.split()))


CIFAR = (  # Table A2: layers, parameters, multiply-adds, top-1
    (
        'C(512,5,1) C(256,3,1) C(256,5,1) C(256,3,1) P(5,3) C(512,3,1) C(512,5,1) P(2,2)',
        (11_263_754, 4_155_457_536),
        93.08,
    ),
    (
        'C(128,1,1) C(512,3,1) C(64,1,1) C(128,3,1) P(2,2) C(256,3,1) P(2,2) C(512,3,1) P(3,2)',
        (2_193_354, 837_603_328),
        91.22,
    ),
    (
        'C(128,3,1) C(128,1,1) C(512,5,1) P(2,2) C(128,3,1) P(2,2) C(64,3,1) C(64,5,1)',
        (2_456_586, 1_839_409_792),
        91.12,
    ),
    (
        'C(256,3,1) C(256,3,1) P(5,3) C(256,1,1) C(128,3,1) P(2,2) C(128,3,1)',
        (1_126_154, 642_633_728),
        90.76,
    ),
    (
        'C(64,3,1) C(128,3,1) P(5,3) C(256,3,1) P(3,2) FC(512) FC(128)',
        (1_617_930, 102_401_280),
        90.52,
    ),
)
SVHN = (  # Table A3; the second is the paper's best
    (
        'C(128,3,1) P(2,2) C(64,5,1) C(512,5,1) C(256,3,1) C(512,3,1) P(2,2) C(512,3,1) '
        'C(256,5,1) C(256,3,1) C(128,5,1) C(64,3,1)',
        (10_539_658, 1_113_635_456),
        97.76,
    ),
    (
        'C(128,1,1) C(256,5,1) C(128,5,1) P(2,2) C(256,5,1) C(256,1,1) C(256,3,1) C(256,3,1) '
        'C(256,5,1) C(512,5,1) C(256,3,1) C(128,3,1)',
        (10_383_626, 3_580_585_216),
        97.72,
    ),
    (
        'C(128,5,1) C(128,3,1) C(64,5,1) P(5,3) C(128,3,1) C(512,5,1) C(256,5,1) C(128,5,1) '
        'C(128,5,1) C(128,3,1)',
        (6_832_330, 886_224_128),
        97.68,
    ),
    (
        'C(128,1,1) C(256,5,1) C(128,5,1) C(256,3,1) C(256,5,1) P(2,2) C(128,1,1) C(512,3,1) '
        'C(256,5,1) P(2,2) C(64,5,1) C(64,1,1)',
        (7_918_602, 4_555_491_968),
        97.65,
    ),
    (
        'C(128,1,1) C(256,5,1) C(128,5,1) C(256,5,1) C(256,5,1) C(256,1,1) P(3,2) C(128,1,1) '
        'C(256,5,1) C(512,5,1) C(256,3,1) C(128,3,1)',
        (10_055_818, 5_522_842_880),
        97.64,
    ),
)
MNIST = (  # static/prototxt/mnist_N.prototxt
    (
        'C(64,3,1) C(128,1,1) P(2,2) C(256,3,1) C(128,5,1) C(64,1,1) C(512,5,1) C(128,5,1) '
        'C(64,1,1) C(512,5,1) C(256,5,1) C(64,5,1)',
        (8_213_962, 1_375_720_064),
        None,
    ),
    (
        'C(64,3,1) C(128,3,1) C(512,1,1) C(256,1,1) C(256,5,1) C(128,3,1) P(5,3) C(512,1,1) '
        'C(512,3,1) C(128,5,1)',
        (6_353_034, 1_989_143_552),
        None,
    ),
    (
        'C(128,3,1) C(64,1,1) C(64,3,1) C(64,5,1) P(2,2) C(128,3,1) P(3,2) C(512,3,1) FC(512) '
        'FC(128)',
        (7_436_490, 152_141_056),
        None,
    ),
    (
        'C(64,1,1) C(256,5,1) C(256,5,1) C(512,1,1) C(64,3,1) P(5,3) C(256,5,1) C(256,5,1) '
        'C(512,5,1) C(64,1,1) C(128,5,1) C(512,5,1)',
        (10_005_514, 2_400_930_816),
        None,
    ),
    (
        'C(512,5,1) C(128,5,1) C(128,5,1) C(128,3,1) C(256,3,1) C(512,5,1) C(256,3,1) C(128,3,1)',
        (8_285_706, 5_708_623_872),
        None,
    ),
    (
        'C(256,3,1) C(256,5,1) C(512,3,1) C(256,5,1) C(512,1,1) P(5,3) C(256,3,1) C(64,3,1) '
        'C(256,5,1) C(512,3,1) C(128,5,1) C(512,5,1)',
        (12_757_194, 5_283_229_696),
        None,
    ),
    (
        'C(64,5,1) C(512,5,1) P(3,2) C(256,5,1) C(256,3,1) C(256,3,1) C(128,1,1) C(256,3,1) '
        'C(256,5,1) C(64,1,1) C(256,3,1) C(64,3,1)',
        (7_668_362, 1_784_140_416),
        None,
    ),
    (
        'C(512,1,1) C(128,3,1) C(128,5,1) C(64,1,1) C(256,5,1) C(64,1,1) P(5,3) C(512,1,1) '
        'C(512,3,1) C(256,3,1) C(256,5,1) C(256,5,1)',
        (8_450_442, 1_563_615_232),
        None,
    ),
    (
        'C(128,3,1) C(512,3,1) P(2,2) C(256,3,1) C(128,5,1) C(64,1,1) C(64,5,1) C(512,5,1) GAP(10)',
        (3_528_824, 960_937_060),
        None,
    ),
    (
        'C(64,1,1) C(256,3,1) P(2,2) C(512,3,1) C(256,1,1) P(5,3) C(256,3,1) C(512,3,1) FC(512)',
        (5_594_634, 355_557_376),
        None,
    ),
)


def _numbered(data: str, first: int, networks: Sequence[tuple]) -> dict[str, tuple]:
    """Returns the rows of a table for register_table; numbers in the names begin with `first`."""
    return {
        f'metaqnn_{number}_{data}': (chain(text), params, macs, top1)
        for number, (text, (params, macs), top1) in enumerate(networks, first)
    }


register_table(
    {**_numbered('cifar', 1, CIFAR), **_numbered('svhn', 1, SVHN)},
    'genotype params macs top1',
    system=SYSTEM,
    module=MetaQNN,
    input_size=32,
)
register_table(
    _numbered('mnist', 0, MNIST),
    'genotype params macs top1',
    system=SYSTEM,
    module=MetaQNN,
    input_size=28,
)
# The first CIFAR-10 network, trained from scratch on CIFAR-100 (section 5).
register(
    Variant(
        'metaqnn_1_cifar100',
        SYSTEM,
        MetaQNN,
        {'genotype': chain(CIFAR[0][0]), 'num_classes': 100},
        input_size=32,
        params=12_001_124,
        macs=4_156_194_816,
        top1=72.86,
    )
)

"""MetaQNN's space: plain convolutional nets, layer by layer (Baker et al. 2017, section 4.1, B).

What may follow what is that of the authors' code (github.com/bowenbaker/metaqnn,
libs/grammar/state_enumerator.py), which all nets of their published run on SVHN obey. There a pool
of n pixels leaves ceil((n - window + 1) / stride), and agents see of this size only whether it is
8 or more, 4 to 7, or less. cls.models.metaqnn's pools may leave one pixel fewer. Nets end with GAP,
as in the paper's table of layers; in the code SM is one more decision behind it, the only one.
"""

import dataclasses
import functools
import math

from cls.models.metaqnn import Chain, parse
from cls.search.space import Code, Space

BUCKETS = (8, 4, 1)  # of sizes: from so many pixels on
Layer = tuple[str, tuple[int, ...]]  # kind and numbers, as cls.models.metaqnn.parse has them
END: Layer = ('SM', ())


@dataclasses.dataclass(frozen=True)
class MetaQNN(Space):
    """Codes: which of the layers that may come next, one after the other, up to SM or GAP.

    A net may end after any layer, and before the first. Convolutions and pools have windows smaller
    than the image's bucket; a pool comes behind a convolution only, linear layers where 7 or fewer
    pixels are left, no wider than the one before, and behind them nothing else. All layers count
    towards the depth, the classifier does not.

    The fields' defaults are of CIFAR-10. SVHN has a depth of 12. Of MNIST's space neither the
    paper's code nor its files say more than the nets found there, which are in this one of a depth
    of 12 on 28 pixels.
    """

    depth: int = 18
    image_size: int = 32  # pixels on a side
    filters: tuple[int, ...] = (64, 128, 256, 512)
    windows: tuple[int, ...] = (1, 3, 5)
    pools: tuple[tuple[int, int], ...] = ((5, 3), (3, 2), (2, 2))  # window and stride
    linear: tuple[int, ...] = (512, 256, 128)
    most_linear: int = 2
    classes: int = 10  # the width of GAP

    def __post_init__(self) -> None:
        for field in ('filters', 'windows', 'pools', 'linear'):  # a config's are lists
            values = tuple(tuple(v) if isinstance(v, list) else v for v in getattr(self, field))
            object.__setattr__(self, field, values)
        if self.depth < 1 or self.image_size < 1:
            raise ValueError(
                f'depth {self.depth}, image_size {self.image_size}: expected 1 or more'
            )

    def choices(self, prefix: Code) -> int:
        state = self.state(prefix)
        return 0 if state[1] and state[1][0] in ('SM', 'GAP') else len(_next(self, *state))

    def state(self, prefix: Code) -> 'State':
        """Returns depth, last layer, number of linear ones, and bucket of the image's size."""
        return self._walk(prefix)[0]

    def genotype(self, code: Code) -> Chain:
        layers = self._walk(code)[1]
        return Chain(tuple(f'{kind}({",".join(map(str, n))})' for kind, n in layers if n))

    def code(self, genotype: Chain) -> Code:
        layers: list[Layer] = parse(genotype)
        if not layers or layers[-1][0] != 'GAP':
            layers.append(END)
        code: Code = ()
        for layer in layers:
            options = _next(self, *self.state(code))
            if layer not in options:
                raise ValueError(f'layer {len(code) + 1} of {genotype.layers} is not in the space')
            code += (options.index(layer),)
        return code

    def _walk(self, prefix: Code) -> tuple['State', list[Layer]]:
        """Returns the state after these decisions, and their layers."""
        size, layers = self.image_size, []
        state: State = (0, None, 0, _bucket(size))
        for choice in prefix:
            depth, _, linear, _ = state
            layer = kind, numbers = _next(self, *state)[choice]
            if kind == 'P':
                size = math.ceil((size - numbers[0] + 1) / numbers[1])
            flat = kind in ('FC', 'GAP')  # the image is no more
            state = (depth + 1, layer, linear + (kind == 'FC'), 0 if flat else _bucket(size))
            layers.append(layer)
        return state, layers


State = tuple[int, Layer | None, int, int]


@functools.cache
def _next(
    space: MetaQNN, depth: int, last: Layer | None, linear: int, bucket: int
) -> tuple[Layer, ...]:
    """Returns what may come after a state: the end, convolutions, GAP, pools, linear layers."""
    kind, numbers = last or ('', ())
    options = [END]
    if depth == space.depth:
        return tuple(options)
    if not linear:
        windows = [window for window in space.windows if window < bucket]
        options += [('C', (n, window, 1)) for n in space.filters for window in windows]
        options.append(('GAP', (space.classes,)))
    if kind == 'C':
        options += [('P', pool) for pool in space.pools if pool[0] < bucket]
    if bucket < BUCKETS[0] and linear < space.most_linear:
        options += [('FC', (n,)) for n in space.linear if not linear or n <= numbers[0]]
    return tuple(options)


def _bucket(size: int) -> int:
    return next(bucket for bucket in BUCKETS if size >= bucket)

"""MetaQNN's space: plain convolutional networks, layer by layer (Baker et al. 2017, 4.1, B).

The rules for the next layer are those of the authors' code (github.com/bowenbaker/metaqnn,
libs/grammar/state_enumerator.py). All networks of their published run on SVHN obey them. There a
pool of n pixels leaves ceil((n - window + 1) / stride), and agents see of this size only its
bucket: 8 or more, 4 to 7, or less. cls.models.metaqnn's pools may leave one pixel fewer. Networks
end with GAP, as in the paper's table of layers; in the authors' code the only choice after it, SM,
is one more decision.
"""

import dataclasses
import functools
import math

from cls.models.metaqnn import Chain, parse
from cls.search.space import Code, Space

BUCKETS = (8, 4, 1)  # the smallest sizes of the buckets, in pixels
Layer = tuple[str, tuple[int, ...]]  # kind and numbers, see cls.models.metaqnn.parse
END: Layer = ('SM', ())


@dataclasses.dataclass(frozen=True)
class MetaQNN(Space):
    """Chains of layers, whose code chooses each next layer up to SM or GAP.

    A network may end after any layer, and before the first. Convolutions and pools have windows
    smaller than the image's bucket. A pool comes only after a convolution. Linear layers need an
    image of at most 7 pixels, are no wider than the one before, and only they or the end follow
    them. All layers count toward the depth, except the classifier.

    The defaults are for CIFAR-10. SVHN has a depth of 12. The paper's code and files do not define
    MNIST's space; the networks found there are in this space with a depth of 12 and 28 pixels.
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
        for field in ('filters', 'windows', 'pools', 'linear'):  # those of a config are lists
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
        """Returns the depth, the last layer, the number of linear ones and the image's bucket."""
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
            flat = kind in ('FC', 'GAP')  # there is no image any more
            state = (depth + 1, layer, linear + (kind == 'FC'), 0 if flat else _bucket(size))
            layers.append(layer)
        return state, layers


State = tuple[int, Layer | None, int, int]


@functools.cache
def _next(
    space: MetaQNN, depth: int, last: Layer | None, linear: int, bucket: int
) -> tuple[Layer, ...]:
    """Returns the layers possible after a state: the end, convolutions, GAP, pools, linear ones."""
    kind, numbers = last or ('', (0,))
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

"""ProxylessNAS's space (Cai et al. 2019, https://arxiv.org/abs/1812.00332, section 4.2).

A network is a row of places for blocks, in stages of one width. A place has an inverted residual
with a window of 3, 5 or 7 and expansion 3 or 6. A place whose shortcut keeps the shape may also be
empty: the network is then shallower.
"""

import dataclasses
import functools
import itertools
from collections.abc import Hashable, Iterable

from cls.nn.inverted import Genotype, Run, blocks, scaled
from cls.search.space import Code, Fixed


@dataclasses.dataclass(frozen=True)
class ProxylessNAS(Fixed):
    """Networks, whose code has one of the `candidates` for each place, or the choice after them.

    That last choice is not a block. The first block is the same in all networks. Defaults are the
    authors' space for ImageNet. Raises ValueError for widths, repeats and strides of different
    lengths.
    """

    first: int = 16  # channels of the first block, without expansion
    widths: tuple[int, ...] = (24, 40, 80, 96, 192, 320)
    repeats: tuple[int, ...] = (4, 4, 4, 4, 4, 1)
    strides: tuple[int, ...] = (2, 2, 2, 1, 2, 1)  # of a stage's first block
    windows: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[int, ...] = (3, 6)

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.repeats) == len(self.strides):
            raise ValueError(
                f'widths {self.widths}, repeats {self.repeats}, strides {self.strides}: '
                'expected one of each for a stage'
            )

    @property
    def candidates(self) -> tuple[tuple[int, int], ...]:
        """The possible blocks of a place, as pairs of window and expansion."""
        return tuple(itertools.product(self.windows, self.expansions))

    @property
    def none(self) -> int:
        """The choice of no block."""
        return len(self.candidates)

    @functools.cached_property
    def places(self) -> tuple[Run, ...]:
        """The places, each with the stride and the channels of its block.

        Window and expansion are the largest; `skip`: whether there is a shortcut.
        """
        places, channels = [], self.first
        window, expansion = self.candidates[-1]
        for width, repeats, stride in zip(self.widths, self.repeats, self.strides, strict=True):
            for i in range(repeats):
                strides = stride if i == 0 else 1
                skip = strides == 1 and channels == width
                places.append(Run(1, window, strides, expansion, width, skip=skip))
                channels = width
        return tuple(places)

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(self.none + place.skip for place in self.places)

    def genotype(self, code: Code) -> Genotype:
        """Returns the network: a stage for each resolution, with equal blocks as one string."""
        stages = [[f'k3_s1_e1_o{self.first}']]
        starts = {sum(self.repeats[:i]): stride for i, stride in enumerate(self.strides)}
        for i, (choice, run) in enumerate(zip(code, self.places, strict=True)):
            if i == 0 or starts.get(i, 1) > 1:
                stages.append([])
            if choice != self.none:
                window, expansion = self.candidates[choice]
                text = f'k{window}_s{run.strides}_e{expansion}_o{run.features}'
                stages[-1].append(text)
        return Genotype(tuple(tuple(_counted(stage)) for stage in stages))

    def code(self, genotype: Genotype) -> Code:
        """Returns the code with the empty places at the end of each stage."""
        first, *rest = [run for _, run in blocks(scaled(genotype))]
        if _form(first) != (3, 1, 1, self.first):
            raise ValueError(f'the first block is {first}: expected r1_k3_s1_e1_o{self.first}')
        code: Code = ()
        for place in self.places:
            shape = (place.strides, place.features)
            if rest and (rest[0].strides, rest[0].features) == shape:
                run = rest.pop(0)
                form = (run.window, run.expansion)
                if form not in self.candidates:
                    raise ValueError(
                        f'{run} is none of the windows and expansions {self.candidates}'
                    )
                code += (self.candidates.index(form),)
            elif place.skip:
                code += (self.none,)
            else:
                raise ValueError(f'expected a block of stride and channels {shape}')
        if rest:
            raise ValueError(f'{len(rest)} blocks have no place, the first of them {rest[0]}')
        return code

    def key(self, code: Code) -> Hashable:
        """Returns the genotype: the order of empty places in a stage has no part in it."""
        return self.genotype(code)


def _form(run: Run) -> tuple[int, int, float, int]:
    return run.window, run.strides, run.expansion, run.features


def _counted(texts: Iterable[str]) -> list[str]:
    """Returns strings of runs of equal blocks, for strings of single blocks without their r."""
    counted: list[tuple[int, str]] = []
    for text in texts:
        if counted and counted[-1][1] == text:
            counted[-1] = (counted[-1][0] + 1, text)
        else:
            counted.append((1, text))
    return [f'r{count}_{text}' for count, text in counted]

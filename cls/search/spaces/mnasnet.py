"""MnasNet's space: networks of stages, each with repetitions of its own block.

Tan et al. 2019 (https://arxiv.org/abs/1807.11626), section 4.1, figure 4: for each stage the
operation, its window, gates, the shortcut, channels (0.75, 1 or 1.25 times MobileNetV2's) and
repetitions (MobileNetV2's, one more or one less).

Genotypes are those of cls/nn/inverted.py, without a plain convolution and a shortcut with a pool.
So a stage has 3 of the paper's 4 operations (depthwise separable, inverted residuals with expansion
3 and 6), in all 432 choices, and 2 of its 3 shortcuts. Every stage has a block, and channels are
multiples of 8, so that a few choices coincide and count once.

The published networks are of this kind but outside these numbers: A1 has 112 channels in its fifth
stage, MobileNetV2 has 96; B1 has 192 in its sixth, MobileNetV2 160.
"""

import dataclasses
import functools
from collections.abc import Hashable
from typing import Any

from cls.nn import inverted
from cls.search.space import Code, Fixed

Choices = tuple[tuple[int, ...], ...]  # of each stage

MOBILENETV2 = (  # widths, repetitions
    ((16, 24), (1, 2)),
    ((24, 32), (1, 2, 3)),
    ((24, 32, 40), (2, 3, 4)),
    ((48, 64, 80), (3, 4, 5)),
    ((72, 96, 120), (2, 3, 4)),
    ((120, 160, 200), (2, 3, 4)),
    ((240, 320, 400), (1, 2)),
)
EFFICIENTNET_B0 = ((16,), (24,), (40,), (80,), (112,), (192,), (320,))


@dataclasses.dataclass(frozen=True)
class MnasNet(Fixed):
    """Networks, whose codes have six decisions per stage, in the order of the last six fields."""

    stem: int = 32  # channels of the first stage's input
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)  # of each stage's first block
    expansions: tuple[int, ...] = (1, 3, 6)
    windows: tuple[int, ...] = (3, 5)
    gates: tuple[float, ...] = (0.0, 0.25)  # as shares of a block's input
    skips: tuple[bool, ...] = (True, False)
    widths: Choices = tuple(widths for widths, _ in MOBILENETV2)
    repeats: Choices = tuple(repeats for _, repeats in MOBILENETV2)

    def __post_init__(self) -> None:
        """Raises ValueError for tables of different lengths."""
        lengths = len(self.strides), len(self.widths), len(self.repeats)
        if len(set(lengths)) > 1:
            raise ValueError(f'strides, widths, repeats are of {lengths} stages: expected the same')

    def options(self, stage: int) -> tuple[tuple[Any, ...], ...]:
        """Returns the choices of each of a stage's decisions."""
        fixed = self.expansions, self.windows, self.gates, self.skips
        return (*fixed, self.widths[stage], self.repeats[stage])

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        return tuple(len(o) for i in range(len(self.strides)) for o in self.options(i))

    def runs(self, code: Code) -> list[inverted.Run]:
        """Returns the blocks of each stage."""
        runs = []
        for i, strides in enumerate(self.strides):
            choices = zip(self.options(i), code[6 * i : 6 * i + 6], strict=True)
            expansion, window, gate, skip, width, repeats = (o[choice] for o, choice in choices)
            runs.append(inverted.Run(repeats, window, strides, expansion, width, gate, skip))
        return runs

    def genotype(self, code: Code) -> inverted.Genotype:
        return inverted.Genotype(tuple((encode(run),) for run in self.runs(code)))

    def code(self, genotype: inverted.Genotype) -> Code:
        if len(genotype.stages) != len(self.strides):
            raise ValueError(f'{genotype} has other than {len(self.strides)} stages')
        code: Code = ()
        for i, stage in enumerate(genotype.stages):
            run = inverted.decode(stage[0])
            values = run.expansion, run.window, run.gate, run.skip, run.features, run.repeats
            pairs = list(zip(values, self.options(i), strict=True))
            fits = all(value in options for value, options in pairs)
            if len(stage) > 1 or run.act or run.strides != self.strides[i] or not fits:
                raise ValueError(f'stage {i + 1}, {", ".join(stage)}, is not in the space')
            code += tuple(options.index(value) for value, options in pairs)
        return code

    def key(self, code: Code) -> Hashable:
        """Returns the blocks, without the impossible shortcuts between different shapes."""
        runs, channels = self.runs(code), self.stem
        for i, run in enumerate(runs):
            if run.repeats == 1 and (run.strides > 1 or run.features != channels):
                runs[i] = dataclasses.replace(run, skip=False)
            channels = run.features
        return tuple(runs)


def encode(run: inverted.Run) -> str:
    """Returns the string of a run of blocks, for inverted.decode."""
    text = f'r{run.repeats}_k{run.window}_s{run.strides}_e{run.expansion:g}_o{run.features}'
    return text + (f'_se{run.gate:g}' if run.gate else '') + ('' if run.skip else '_noskip')


@dataclasses.dataclass(frozen=True)
class AccelNasBench(MnasNet):
    """Accel-NASBench's space (Ahmad et al. 2024): 1.04e11 networks, some of them measured.

    They have EfficientNet-B0's channels, strides and shortcuts; the model efficientnet_b0 builds
    them. The table's columns e, k, l, se have a digit for each stage.
    """

    expansions: tuple[int, ...] = (1, 4, 6)
    skips: tuple[bool, ...] = (True,)
    widths: Choices = EFFICIENTNET_B0
    repeats: Choices = (*((1, 2, 3),) * 5, (1, 2, 3, 4), (1, 2, 3))

    def named(self, name: str) -> Code:
        """Returns the code of a row by its values 'e,k,l,se', as '6466611,3535533,1233222,0000000'.

        Raises ValueError for a row outside the space.
        """
        columns = [tuple(map(int, digits)) for digits in name.split(',')]
        code: Code = ()
        for *digits, stage_repeats in zip(*columns, self.repeats, strict=True):
            expansion, window, repeats, gate = digits
            choices = self.expansions.index(expansion), self.windows.index(window)
            code += (*choices, (0, 1).index(gate), 0, 0, stage_repeats.index(repeats))
        return code

"""Names of packages that turn into those of the modules here, before a variant's renames.

Most variants of a system share a module, but not a reference: `resnet50` has the names of
torchvision, `resnet50_v1` those of pytorchcv. A table for both ends with the names that the rule of
`convert` gives to the variables, and the `renames` of the variant do the rest.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from cls.models.registry import Variant
from cls.nn import inverted
from cls.nn.inverted import Run
from cls.weights.families import Renames


def ours(*pairs: Any) -> Callable[[Variant], Renames]:
    """Returns a function for `Names.renames` of pairs that end with the names of a module."""
    return lambda variant: (*pairs, *variant.renames)


def numbered(names: Sequence[str], pattern: str) -> tuple[str, Callable]:
    """Returns the pair from the numbers of consecutive blocks to their names.

    Numbers beyond the last name stay.

    Args:
      names: the names of blocks 0, 1, ..., as 'blocks.0.0'.
      pattern: a regular expression with a group for the number of a block.
    """

    def name(match: re.Match) -> str:
        number = int(match[1])
        return f'{names[number]}.' if number < len(names) else match[0]

    return pattern, name


def block_names(runs: Sequence[Sequence[Run]]) -> list[str]:
    """Returns the names of the blocks of a network of inverted residuals, as 'blocks.0.1'."""
    return [name for name, _ in inverted.blocks(runs)]


def unit_names(pattern: str, stages_from: int = 1) -> tuple[str, Callable]:
    """Returns the pair from numbers of a stage and a unit to 'stage1.unit1.' (cls.nn.preact).

    Args:
      pattern: a regular expression with a group for the stage and a group for the unit, from 0.
      stages_from: the number of the first stage in the file.
    """

    def name(match: re.Match) -> str:
        return f'stage{int(match[1]) + 1 - stages_from}.unit{int(match[2]) + 1}.'

    return pattern, name

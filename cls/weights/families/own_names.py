"""Names of packages that turn into those of the modules here, before a variant's renames.

Most variants of a system share a module, but not a reference: `resnet50` has the names of
torchvision, `resnet50_v1` those of pytorchcv. A table for both ends with the names that the rule of
`convert` gives to the variables, and the `renames` of the variant do the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

from cls.models.registry import Variant
from cls.nn import inverted
from cls.nn.inverted import Run
from cls.weights.families import Renames


def ours(*pairs: Any) -> Callable[[Variant], Renames]:
    """Returns a function for `Names.renames` of pairs that end with the names of a module."""
    return lambda variant: (*pairs, *variant.renames)


def numbered(names: Sequence[str], template: str, first: int = 0) -> Renames:
    """Returns pairs from the numbers of consecutive blocks to their names.

    Args:
      names: the names, as 'blocks.0.1'.
      template: a regular expression of the prefix, with `{}` at the number of the block.
      first: the number of the first block.
    """
    return tuple((template.format(i), f'{name}.') for i, name in enumerate(names, first))


def block_names(runs: Sequence[Sequence[Run]]) -> list[str]:
    """Returns the names of the blocks of a network of inverted residuals, as 'blocks.0.1'."""
    return [name for name, _ in inverted.blocks(runs)]

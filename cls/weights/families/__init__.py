"""The names that packages give to the tensors of the registered variants, one file per package.

A variant's `renames` give the names of its reference. Files of other packages have other names for
the same tensors; a family's tables turn them into those of the reference, and the one rule of
`convert` does the rest.

May import: errors, models, nn.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping

import numpy as np

from cls.models.registry import Variant

# (regular expression, replacement) pairs, applied in turn to a file's names.
Renames = tuple[tuple[str, str | Callable], ...]
Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Names:
    """The names that a package gives to the tensors of some variants.

    Attributes:
      variants: a regular expression that matches the whole names of these variants.
      renames: pairs from the file's names to those of the variant's reference, or a function of the
        variant that returns them.
      tensors: a function of the file's tensors and the variant, called before `renames`, for forms
        that names alone cannot convert (split, joined or flattened tensors, biases before a norm).
        It has to work on arrays of any floating type, and to account for each tensor.
      fields: fields of the module that differ from the variant's own, as an epsilon.
      missing: the difference of networks that compute something else with the same tensors under
        these names, and that are not here; '' for networks that are here.
    """

    variants: str
    renames: Renames | Callable[[Variant], Renames] = ()
    tensors: Callable[[Tensors, Variant], Tensors] | None = None
    fields: Mapping[str, object] = dataclasses.field(default_factory=dict)
    missing: str = ''


@dataclasses.dataclass(frozen=True)
class Family:
    """The checkpoints of a package.

    Attributes:
      name: the package's name, as 'pytorchcv'.
      tables: names of tensors, for the variants that the package has.
      networks: the package's name of a network -> the variant, where the names and shapes of its
        tensors fit several variants or the names of the networks differ.
      missing: regular expressions over the package's names of networks that `cls` lacks -> the
        difference from the systems here, as 'blurred strides'.
    """

    name: str
    tables: tuple[Names, ...] = ()
    networks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)


@functools.cache
def families() -> tuple[Family, ...]:
    """Returns the `FAMILY` of each file in this folder that has one, in the order of the names."""
    modules = (
        importlib.import_module(f'{__name__}.{module.name}')
        for module in pkgutil.iter_modules(__path__)
    )
    found = (getattr(module, 'FAMILY', None) for module in modules)
    return tuple(family for family in found if isinstance(family, Family))

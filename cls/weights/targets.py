"""The tensors of packages' networks, for exports: targets.json.xz.

tests/golden/make_targets.py writes the file from the packages alone.
"""

import dataclasses
import functools
import json
import lzma
from importlib import resources
from typing import Any

from cls import models
from cls.weights.naming import CLASSES, Shape


@dataclasses.dataclass(frozen=True)
class Target:
    """A package's network.

    Attributes:
      package, name: the package, and its name of the network.
      tensors: name -> (dtype, shape), in the order of the package, with CLASSES for the number of
        classes. Names of Keras are LAYER/WEIGHT.
      optional: the names of the tensors of auxiliary heads.
      layers: names of layers that timm's loader asks for, 'first_conv' and 'classifier'.
    """

    package: str
    name: str
    tensors: dict[str, tuple[str, Shape]]
    optional: frozenset[str] = frozenset()
    layers: dict[str, Any] = dataclasses.field(default_factory=dict)

    def shape(self, name: str, classes: int) -> Shape:
        """Returns the shape of a tensor in a network of some number of classes."""
        return tuple(classes if size == CLASSES else size for size in self.tensors[name][1])


@functools.cache
def _entries() -> dict[str, dict[str, Any]]:
    content = resources.files('cls.weights').joinpath('targets.json.xz').read_bytes()
    return json.loads(lzma.decompress(content))


def of(package: str, variant: str) -> Target | None:
    """Returns a package's network with the graph of a variant, None if it has none.

    Of several, it is that of the variant's reference, or that of the same name, or the first.
    """
    reference = models.variant(variant).reference
    names = [key for key, entry in _entries().items() if entry['variant'] == variant]
    own = [key for key in names if key.startswith(f'{package}:')]
    if reference in _entries() and reference and reference.startswith(f'{package}:'):
        own = [reference]  # several variants may have one reference
    if not own:
        return None
    key = next((k for k in own if k in (reference, f'{package}:{variant}')), own[0])
    entry = _entries()[key]
    tensors = {}
    for line in entry['tensors']:
        name, dtype, *shape = line.rsplit(' ') if ' ' in line else (line, '')
        tensors[name] = dtype, tuple(map(int, shape))
    layers = {field: entry[field] for field in ('first_conv', 'classifier') if entry.get(field)}
    optional = frozenset(entry['optional'])
    return Target(package, key.partition(':')[2], tensors, optional, layers)


def variants(package: str) -> list[str]:
    """Returns the variants that a package has, in alphabetical order."""
    entries = _entries().items()
    return sorted({entry['variant'] for key, entry in entries if key.startswith(f'{package}:')})

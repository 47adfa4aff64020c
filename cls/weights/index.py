"""The names and shapes of the tensors of all variants, in the files of the folder `tensors`.

Tracing all networks takes minutes, and recognition compares a file with each of them. A file has
the variants of one system, compressed, in lines of JSON: first the shapes of each variant, with the
number of tensors of each shape, and then one line for each variant. Recognition reads the first
line of each file, and more only of the few nearest variants. Variants of a config file of the user
are traced when they are asked for.

`python -m cls.tools.models --recount` writes the files; a test compares them with the code.
"""

import collections
import dataclasses
import functools
import json
import lzma
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from cls import models
from cls.models import registry
from cls.models.registry import Variant
from cls.weights import convert
from cls.weights.naming import CLASSES, Shape

FOLDER = Path(__file__).with_name('tensors')
SUFFIX = '.json.xz'
# A number of classes that is no other size in any network.
_MARK = 7919

Counts = Mapping[Shape, int]


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The tensors of a variant, by the names of its reference.

    Attributes:
      body: name -> shape, of all tensors that do not depend on the number of classes.
      head: the tensors of the classifier, with CLASSES for the number of classes.
      aux: the tensors of auxiliary heads, with CLASSES likewise.
    """

    body: Mapping[str, Shape]
    head: Mapping[str, Shape]
    aux: Mapping[str, Shape]

    @functools.cached_property
    def hidden(self) -> frozenset[str]:
        """The tensors of the body that `hidden_layers` returns."""
        return hidden_layers(self.body, self.head)

    @functools.cached_property
    def all(self) -> dict[str, Shape]:
        """All tensors."""
        return {**self.body, **self.head, **self.aux}


def hidden_layers(body: Iterable[str], head: Iterable[str]) -> frozenset[str]:
    """Returns the tensors of the layers before the last one of a classifier.

    They are those of the same outermost module: a backbone of VGG or MobileNetV3 lacks them.

    Args:
      body: the names of the tensors of a network, without those of `head`.
      head: the names of the tensors of the last layer.
    """
    modules, names = {name.partition('.')[0] for name in head}, [*body]
    hidden = frozenset(name for name in names if name.partition('.')[0] in modules)
    return hidden if 4 * len(hidden) < len(names) else frozenset()


def tensors(name: str) -> Tensors:
    """Returns the tensors of a variant. Raises UserError for an unknown one."""
    variant = models.variant(name)
    module = variant.module.__module__
    if registry.origin(name) or name not in _counts_of(module):
        return traced(variant)
    return _read(module, list(_counts_of(module)).index(name))


def counts() -> dict[str, Counts]:
    """Returns variant -> the number of tensors of each shape in its body.

    Variants of cls.models that the files lack are left out (see `missing`).
    """
    result = {}
    for name in models.names():
        of_file = _counts_of(models.variant(name).module.__module__)
        if registry.origin(name):
            result[name] = count(tensors(name).body.values())
        elif name in of_file:
            result[name] = of_file[name]
    return result


def missing() -> list[str]:
    """Returns the variants of cls.models that the files lack."""
    every = [name for name in models.names() if not registry.origin(name)]
    return [
        name for name in every if name not in _counts_of(models.variant(name).module.__module__)
    ]


def count(shapes: Iterable[Shape]) -> collections.Counter[Shape]:
    """Returns the number of tensors of each shape, the same for linear layers as 1x1 convolutions.

    Single numbers, as counters of batches, are left out.
    """
    plain = (shape[:2] if shape[2:] == (1, 1) else shape for shape in shapes)
    return collections.Counter(shape for shape in plain if shape)


def marked(model: Any) -> Any:
    """Returns a model of a number of classes that `of_any` finds in its shapes."""
    return model.clone(num_classes=_MARK)


def of_any(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Returns the shapes of a `marked` model, with CLASSES for the number of classes."""
    return {
        name: tuple(CLASSES if size == _MARK else size for size in shape)
        for name, shape in shapes.items()
    }


def with_classes(variables: Any, classes: int) -> Any:
    """Returns abstract variables of a model of some classes from those of a `marked` one."""
    return jax.tree.map(
        lambda leaf: leaf.update(
            shape=tuple(classes if size == _MARK else size for size in leaf.shape)
        ),
        variables,
    )


def traced(variant: Variant) -> Tensors:
    """Returns the tensors of a variant by its code."""
    model = marked(models.create(variant.name))
    every = of_any(convert.shapes(model, variant))
    aux: set[str] = set()
    if getattr(model, 'aux_head', False):
        aux = every.keys() - convert.shapes(model.clone(aux_head=False), variant).keys()
    parts: tuple[dict, dict, dict] = {}, {}, {}
    for name, shape in every.items():
        parts[2 if name in aux else 1 if CLASSES in shape else 0][name] = shape
    return Tensors(*parts)


# ------------------------------------------------------------------------------------ the files


def path_of(module: str) -> Path:
    """Returns the file of a system's module, as 'cls.models.resnet'."""
    return FOLDER / f'{module.rpartition(".")[2]}{SUFFIX}'


def data(variants: Mapping[str, Tensors], key: str) -> bytes:
    """Returns the content of the file of a system.

    Args:
      variants: name -> tensors, of all its variants.
      key: a digest of the code that the tensors depend on.
    """
    shapes = {
        name: [[number, *shape] for shape, number in count(of.body.values()).items()]
        for name, of in variants.items()
    }
    lines = [{'key': key, 'counts': shapes}]
    lines += [
        [[list(part), list(part.values())] for part in (of.body, of.head, of.aux)]
        for of in variants.values()
    ]
    text = ''.join(json.dumps(line, separators=(',', ':')) + '\n' for line in lines)
    return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


def key_of(module: str) -> str:
    """Returns the key of a system's file, '' without a file."""
    path = path_of(module)
    return _first_line(path)['key'] if path.is_file() else ''


@functools.cache
def _counts_of(module: str) -> dict[str, Counts]:
    """Returns variant -> counts of shapes, from the file of a system; {} without a file."""
    path = path_of(module)
    if not module.startswith('cls.models.') or not path.is_file():
        return {}
    return {
        name: {tuple(shape): number for number, *shape in rows}
        for name, rows in _first_line(path)['counts'].items()
    }


def _first_line(path: Path) -> dict[str, Any]:
    with lzma.open(path) as file:
        return json.loads(file.readline())


@functools.lru_cache(64)
def _read(module: str, number: int) -> Tensors:
    """Returns the tensors in a line of the file of a system, counted from 0 after the first."""
    with lzma.open(path_of(module)) as file:
        for _ in range(number + 1):
            file.readline()
        parts = json.loads(file.readline())
    return Tensors(*(dict(zip(part[0], map(tuple, part[1]), strict=True)) for part in parts))

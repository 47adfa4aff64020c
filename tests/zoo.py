"""Data of tests for each system: one file in tests/systems/, named as the file in cls/models/.

It has

  TASKS     the rows of its golden file, tests/golden/<system>.npz (written by golden/make.py);
  DEFAULT   the variants of the default run; together they have every block and option of the
            system. `pytest -m sweep` runs the others, and all that is slow;
  CSV       the system's name in systems.csv, or several;
  LISTED    variant -> its row there: the text of `variant`, or `variant|ref_name` if that is not
            unique;
  UNLISTED  rows there without a variant here -> the reason.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cls import models


def _load() -> dict[str, ModuleType]:
    names = sorted(path.stem for path in (Path(__file__).parent / 'systems').glob('*.py'))
    return {name: importlib.import_module(f'systems.{name}') for name in names}


# System's file -> its data.
SYSTEMS = _load()


def each(names: list[str] | None = None) -> list[Any]:
    """Returns parameters of a test: all variants; only those in DEFAULT run by default."""
    return _parameters(
        {name for system in SYSTEMS.values() for name in system.DEFAULT},
        models.names() if names is None else names,
    )


def one_of_each() -> list[Any]:
    """Returns parameters of a test: all variants; one of each system runs by default."""
    default = [name for system in SYSTEMS.values() for name in system.DEFAULT]
    first = {models.variant(name).system: name for name in reversed(default)}
    return _parameters(set(first.values()), models.names())


def _parameters(default: set[str], names: list[str]) -> list[Any]:
    return [
        pytest.param(name, marks=() if name in default else pytest.mark.sweep) for name in names
    ]


def shrunk(model: Any) -> Any:
    """Returns a network with fewer repetitions of all kinds of layers that a field counts."""
    known = models.fields(type(model))
    fewer: dict[str, Any] = {
        name: tuple(min(count, most) for count in getattr(model, name))
        for name, most in {'stage_sizes': 2, 'block_sizes': 2, 'blocks': 2, 'modules': 1}.items()
        if name in known
    }
    for name in ('stage_a', 'stage_b', 'stage_c'):  # kinds of modules, in PolyNet
        if name in known:
            fewer[name] = tuple(dict.fromkeys(getattr(model, name)))
    if 'cells' in known:
        fewer['cells'] = 1
    if isinstance(getattr(model, 'stages', None), int):  # Hier's, of the same cell
        fewer['stages'] = 2
    return model.clone(**fewer)

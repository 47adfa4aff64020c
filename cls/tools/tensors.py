"""Writes the names and shapes of the tensors of all variants, see cls.weights.index.

The files of the systems whose code is the same as before are kept.
"""

import gc
import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from cls import models
from cls.models import registry
from cls.nn import limits
from cls.storage import paths
from cls.tools import counts
from cls.weights import index

_FORM = '1'  # of the files


def systems() -> dict[str, list[str]]:
    """Returns the module of each system -> its variants."""
    result: dict[str, list[str]] = {}
    for name in models.names():
        if not registry.origin(name):
            result.setdefault(models.variant(name).module.__module__, []).append(name)
    return result


def key(module: str, root: Path = counts.ROOT) -> str:
    """Returns a digest of the code that the tensors of a system depend on."""
    code = counts.key(module, root)
    return code and hashlib.sha256(f'{_FORM} {code}'.encode()).hexdigest()[:16]


def stale() -> list[str]:
    """Returns the modules of the systems whose file is missing or of other code."""
    return [module for module in systems() if index.key_of(module) != key(module)]


def write(all_systems: bool = False) -> None:
    """Writes the files of the systems whose code changed, and removes files without a system."""
    chosen = list(systems()) if all_systems else stale()
    index.FOLDER.mkdir(exist_ok=True)
    for path in index.FOLDER.glob(f'*{index.SUFFIX}'):
        if path not in map(index.path_of, systems()):
            path.unlink()
    keys = {module: key(module) for module in chosen}  # of the code before it may change
    names = [name for module in chosen for name in systems()[module]]
    traced = _traced(names)
    for module in chosen:
        variants = {name: next(traced) for name in systems()[module]}
        paths.write_whole(index.path_of(module), index.data(variants, keys[module]))


def _traced(names: list[str]) -> Iterator[index.Tensors]:
    """Yields the tensors of variants; many are traced in one process per core."""
    processes = min(os.cpu_count() or 1, len(names) // 4)
    if processes < 2:
        yield from map(_one, names)
        return
    context = multiprocessing.get_context('spawn')  # a fork of a process that uses JAX may hang
    with ProcessPoolExecutor(processes, context, initializer=gc.disable) as pool:
        yield from pool.map(_one, names)


def _one(name: str) -> index.Tensors:
    before = limits.max_layers()
    limits.limit_layers(10**5)  # no variant is refused
    try:
        return index.traced(models.variant(name))
    finally:
        limits.limit_layers(before)

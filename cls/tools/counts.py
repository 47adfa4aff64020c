"""Parameters and multiply-adds of all variants, kept in counts.json next to this file.

Tracing 317 networks takes a minute. The counts of a system are valid as long as its code is the
same: its file, the modules of cls.nn and cls.models that the file imports, and the counter. Only
`python -m cls.tools.models --recount` writes counts.json.

The key has no version of JAX or Flax, because the counts are a property of the network. The tests
recount under every supported version; a difference would be an error of the counter.
"""

import ast
import functools
import gc
import hashlib
import json
import multiprocessing
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from cls import models
from cls.errors import UserError
from cls.models.registry.complexity import Complexity, complexity
from cls.storage import paths

FILE = Path(__file__).with_name('counts.json')
ROOT = Path(__file__).parents[2]  # the folder that the package cls is in
_COUNTER = complexity.__module__
_PACKAGES = ('cls.models', 'cls.nn')
# Looking up a variant does not change its network.
_LOOK_UP = ('cls.models.registry',)
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# Fields of syntax trees that no result depends on.
_IGNORED_FIELDS = frozenset({'ctx', 'kind', 'type_comment', 'type_ignores'})


def costs(names: Sequence[str], stored: Mapping[str, Complexity]) -> dict[str, Complexity]:
    """Returns {variant: cost}, stored or else counted."""
    counted = count([name for name in names if name not in stored])
    return {name: stored[name] if name in stored else counted[name] for name in names}


def count(names: Sequence[str]) -> dict[str, Complexity]:
    """Returns {variant: cost}; many variants are traced in one process per core."""
    processes = min(os.cpu_count() or 1, len(names) // 4)
    if processes < 2:
        return {name: _counted(name) for name in names}
    context = multiprocessing.get_context('spawn')  # a fork of a process that uses JAX may hang
    with ProcessPoolExecutor(processes, context, initializer=gc.disable) as pool:  # a fifth faster
        return dict(zip(names, pool.map(_counted, names), strict=True))


def _counted(name: str) -> Complexity:
    return complexity(models.create(name), models.variant(name).input_size)


# ------------------------------------------------------------------------------------ the file


def read(file: Path, root: Path = ROOT) -> dict[str, Complexity]:
    """Returns {variant: cost} for the systems whose code has the key in the file.

    Invalid entries are left out. A missing or broken file has no entries.

    Args:
      file: the path of a file with the content of `text`.
      root: the folder with the package cls, the source of the keys.
    """
    try:
        systems = paths.parse_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(systems, dict):
        return {}
    valid = {}
    for module, entry in systems.items():
        if isinstance(entry, dict) and entry.get('key') == key(module, root):
            valid |= _costs_of(entry.get('counts'))
    return valid


def _costs_of(counts: Any) -> dict[str, Complexity]:
    counts = counts if isinstance(counts, dict) else {}
    return {
        name: Complexity(*numbers)
        for name, numbers in counts.items()
        if isinstance(numbers, list) and [type(number) for number in numbers] == [int, int]
    }


def text(counted: Mapping[str, Complexity], root: Path = ROOT) -> str:
    """Returns the text of the file; it does not depend on the order of the costs."""
    systems: dict[str, Any] = {}
    for name, cost in counted.items():
        module = models.variant(name).module.__module__
        entry = systems.setdefault(module, {'key': key(module, root), 'counts': {}})
        entry['counts'][name] = [cost.params, cost.macs]
    lines = json.dumps(systems, indent=1, sort_keys=True)
    return re.sub(r'\[\s+(\d+),\s+(\d+)\s+\]', r'[\1, \2]', lines) + '\n'  # one line per variant


def write(file: Path) -> None:
    """Counts all variants and writes the file. Raises UserError if it cannot be written."""
    try:
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise UserError(
            f'{file} cannot be written ({error.strerror}): expected a checkout of the code.'
        ) from None
    paths.write_whole(file, text(count(models.names())).encode())


# ------------------------------------------------------------------------------------- the key


def key(module: str, root: Path = ROOT) -> str:
    """Returns a digest of the code of a system and of the counter; '' without source files.

    Args:
      module: the module of the system, as 'cls.models.resnet'.
      root: the folder with the package cls.
    """
    seen: dict[str, str] = {}
    waiting = [module, _COUNTER]
    while waiting:
        name = waiting.pop()
        if name in seen or not _counts(name):
            continue
        path = _path(name, root)
        if path is None:
            return ''  # no source file, as in a package of byte code
        seen[name], imports = _code(path, path.stat().st_mtime_ns)
        waiting += [imported for parts in imports if (imported := _module(parts, root))]
    digest = hashlib.sha256(json.dumps(seen, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _counts(module: str) -> bool:
    return module.startswith(_PACKAGES) and (module == _COUNTER or not module.startswith(_LOOK_UP))


def _path(module: str, root: Path) -> Path | None:
    path = root / Path(*module.split('.'))
    files = (path.with_name(f'{path.name}.py'), path / '__init__.py')
    return next((file for file in files if file.is_file()), None)


def _module(name: tuple[str, str], root: Path) -> str:
    """Returns the module that `from PACKAGE import NAME` reads, '' for one of another package."""
    package, attribute = name
    if package.partition('.')[0] != 'cls':
        return ''
    inner = f'{package}.{attribute}'
    return inner if attribute and _path(inner, root) else package


@functools.cache
def _code(path: Path, modified: int) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Returns a digest of a file's code without its comments and docstrings, and its imports."""
    tree = ast.parse(path.read_bytes())
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imports += [(node.module or '', alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            imports += [(alias.name, '') for alias in node.names]
    code = '\n'.join(_lines(tree))
    return hashlib.sha256(code.encode()).hexdigest(), tuple(imports)


def _lines(value: Any) -> Iterator[str]:
    """Yields the parts of a syntax tree, the same under every version of Python.

    The output of `ast.dump` differs: each version adds fields, and 3.13 leaves empty ones out.
    """
    if isinstance(value, ast.AST):
        yield type(value).__name__
        for name, inner in ast.iter_fields(value):
            inner = _relevant(value, name, inner)
            if inner is not None and inner != []:
                yield f'.{name}'
                yield from _lines(inner)
        yield ')'
    elif isinstance(value, list):
        for inner in value:
            yield from _lines(inner)
    else:
        yield repr(value)


def _relevant(node: ast.AST, name: str, value: Any) -> Any:
    """Returns a field of a node, None if it does not change the result of the code."""
    if name in _IGNORED_FIELDS:
        return None
    if name == 'body' and isinstance(node, _DOCUMENTED):
        return value if ast.get_docstring(node, clean=False) is None else value[1:]
    if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some f-strings with an empty string
        return [part for part in value if getattr(part, 'value', None) != '']
    return value

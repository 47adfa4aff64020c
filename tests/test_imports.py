"""The import rules: each room keeps the rule in its docstring, and there are no import cycles.

A room is a folder of cls with a line `May import: a, b.` in its `__init__`, or a file directly in
cls with such a line. Imports inside functions count as well.
"""

import ast
import collections
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PURE = ('registration', 'augment', 'models', 'nn', 'steps')  # rooms that only compute
PURE_PACKAGES = {
    *('cattrs', 'chex', 'collections', 'contextlib', 'contextvars', 'dataclasses', 'flax'),
    *('fnmatch', 'functools', 'hashlib', 'inspect', 'itertools', 'jax', 'json', 'math', 'numpy'),
    *('optax', 'random', 're', 'types', 'typing'),
}
# When it is first asked, the registry imports the model files, which register themselves; and it
# draws large variables in as many threads as there are cores.
REGISTERED = 'cls.models'
REGISTRY_PACKAGES = {'importlib', 'pkgutil', 'concurrent', 'os'}
WITHOUT_JAX = ('commands', 'data', 'errors', 'signals', 'storage')
# Below set-up functions take specifications or plain values.
WITH_CONFIGDICT = (
    'checks',
    'config',
    'ensemble',
    'evaluate',
    'jobs',
    'search',
    'setup',
    'tools',
    'train',
)


def modules(root):
    """Returns module name -> (syntax tree, whether it is a package) for each file of cls."""
    found = {}
    for path in sorted((root / 'cls').rglob('*.py')):
        parts = path.relative_to(root).with_suffix('').parts
        package = parts[-1] == '__init__'
        found['.'.join(parts[:-1] if package else parts)] = (ast.parse(path.read_text()), package)
    return found


def imported(tree, names):
    """Yields the modules that a file imports: full names of cls, top-level names of others.

    The calls of open and print count as modules of these names.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name if alias.name in names else alias.name.partition('.')[0]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'line {node.lineno} has a relative import'
            for alias in node.names:
                full = f'{node.module}.{alias.name}'
                if full in names or node.module in names:
                    yield full if full in names else node.module
                else:
                    yield node.module.partition('.')[0]
        elif isinstance(node, ast.Call):
            function = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
            name = getattr(node.args[0], 'value', None) if node.args else None
            if function in ('import_module', '__import__') and isinstance(name, str):
                if name == REGISTERED:
                    continue
                yield name if name in names else name.partition('.')[0]
            elif isinstance(node.func, ast.Name) and function in ('open', 'print'):
                yield function


@functools.cache
def trees():
    """Returns `modules` of this checkout."""
    return modules(ROOT)


@functools.cache
def targets():
    """Returns module -> all modules that it imports, of this checkout."""
    found = trees()
    return {name: set(imported(tree, found)) - {name} for name, (tree, _) in found.items()}


def graph(planted=None):
    """Returns module -> modules of cls that it imports, module -> other packages, room -> rule.

    Args:
      planted: module -> further modules that it imports.
    """
    inner, outer, rules = {}, {}, {}
    for name, (tree, package) in trees().items():
        all_targets = targets()[name] | (planted or {}).get(name, set())
        inner[name] = all_targets & set(trees())
        outer[name] = all_targets - set(trees())
        rule = re.search(r'^May import: (.+)\.$', ast.get_docstring(tree) or '', re.M)
        if rule and (package or name.count('.') == 1):
            rules[name.removeprefix('cls.')] = rule[1]
    return inner, outer, rules


def room(name, rules):
    """Returns the innermost room of a module; '' for cls itself."""
    parts = name.split('.')[1:]
    prefixes = ('.'.join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in rules), '')


def is_in(name, rooms):
    return any(name == other or name.startswith(f'{other}.') for other in rooms)


def allowed(own, other, rules):
    """Returns whether the rule of a room allows imports of another."""
    rule = rules[own]
    if is_in(other, [own]):
        return True
    if rule.startswith('anything'):
        return not is_in(other, rule.partition(' but ')[2].split(', ')) or not other
    return rule != 'nothing' and is_in(other, rule.split(', '))


def reached(name, edges):
    """Returns all modules that a module imports, directly or through others."""
    seen, rest = set(), [name]
    while rest:
        new = edges[rest.pop()] - seen
        seen |= new
        rest += new
    return seen


def violations(planted=None):
    """Returns a line for each import that breaks a rule, directly or through others."""
    inner, outer, rules = graph(planted)
    lines = []
    for name in inner:
        own = room(name, rules)
        if not own:
            continue
        lines += [
            f'{name} imports {other}, but cls/{own} may import: {rules[own]}'
            for other in sorted(inner[name])
            if not allowed(own, room(other, rules), rules)
        ]
        reaches = reached(name, inner)
        packages = outer[name].union(*(outer[other] for other in reaches))
        if is_in(own, WITHOUT_JAX) and packages & {'jax', 'flax'}:
            lines.append(f'{name} reaches jax, but cls/{own} is without it')
        if 'ml_collections' in outer[name] and not is_in(own, WITH_CONFIGDICT):
            lines.append(f'{name} imports ml_collections, but is below cls/setup.py')
        if 'configs' in outer[name]:
            lines.append(f'{name} imports configs, which is cls.recipes')
        if not is_in(own, PURE):
            continue
        pure = PURE_PACKAGES | (REGISTRY_PACKAGES if own == 'models.registry' else set())
        lines += [f'{name} imports {other}: it computes only' for other in outer[name] - pure]
        lines += [
            f'{name} reaches {other}'
            for other in sorted(reaches)
            if not is_in(room(other, rules), (*PURE, 'errors'))
        ]
    return lines


def circles(edges):
    """Returns the nodes that can be reached from themselves."""
    return sorted(name for name in edges if name in reached(name, edges))


def test_every_file_is_in_a_room_with_a_rule():
    inner, _, rules = graph()
    outside = [name for name in inner if not room(name, rules)]
    assert outside == ['cls']
    folders = {path.parent.name for path in (ROOT / 'cls').glob('*/__init__.py')}
    assert folders <= set(rules)


def test_each_room_imports_what_its_docstring_says():
    assert violations() == []


def test_no_file_imports_itself_through_others():
    inner, _, _ = graph()
    assert circles(inner) == []


def test_a_constant_of_several_files_is_written_once():
    """Numbers and words of different rooms may be equal by chance; tuples are not."""
    _, _, rules = graph()
    homes = collections.defaultdict(list)
    for name, (tree, _) in trees().items():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                constant = node.targets[0].id
                names = [each.id for each in ast.walk(node.value) if isinstance(each, ast.Name)]
                if re.fullmatch('[A-Z][A-Z_]+', constant) and not names:
                    own = room(name, rules).partition('.')[0]
                    own = '' if isinstance(node.value, ast.Tuple) else own
                    homes[constant, ast.unparse(node.value), own].append(name)
    assert {key: files for key, files in homes.items() if len(files) > 1} == {}


def test_no_room_imports_itself_through_others():
    inner, _, rules = graph()
    rooms = {name: set() for name in rules}
    for name, targets in inner.items():
        own = room(name, rules)
        if own:
            rooms[own] |= {room(target, rules) for target in targets} - {own, ''}
    assert circles(rooms) == []


@pytest.mark.parametrize(
    ('file', 'line', 'said'),
    [
        (
            'steps/losses.py',
            'from cls.storage import paths',
            'cls.steps.losses imports cls.storage',
        ),
        ('steps/losses.py', 'def f():\n    import cls.storage.paths', 'imports cls.storage.paths'),
        ('steps/losses.py', 'import cls.storage.paths as p', 'imports cls.storage.paths'),
        ('steps/losses.py', "__import__('cls.storage.paths')", 'imports cls.storage.paths'),
        (
            'steps/losses.py',
            "import importlib\nimportlib.import_module('cls.storage.paths')",
            'imports cls.storage.paths',
        ),
        (
            'steps/losses.py',
            'if typing.TYPE_CHECKING:\n    from cls.storage import paths',
            'imports cls.storage.paths',
        ),
        ('nn/units.py', 'import threading', 'cls.nn.units imports threading'),
        ('nn/units.py', 'import urllib.request', 'cls.nn.units imports urllib'),
        ('nn/units.py', "def f():\n    return open('x')", 'cls.nn.units imports open'),
        ('storage/paths.py', 'import jax.numpy', 'cls.storage.paths reaches jax'),
        ('weights/card.py', 'from ml_collections import ConfigDict', 'is below cls/setup.py'),
        ('train.py', 'from cls.recipes import common', 'cls.train imports cls.recipes'),
        ('train.py', 'def f():\n    import configs.common', 'cls.train imports configs'),
        (
            'errors.py',
            'from cls.distributed import agreement',
            'cls.nn.limits reaches cls.distributed',
        ),
    ],
)
def test_a_planted_import_is_found(file, line, said):
    name = f'cls.{file.removesuffix(".py").replace("/", ".")}'
    text = f'{(ROOT / "cls" / file).read_text()}\n\n{line}\n'
    planted = {name: set(imported(ast.parse(text), trees()))}
    assert any(said in violation for violation in set(violations(planted)) - set(violations()))


def test_a_planted_relative_import_is_found():
    with pytest.raises(AssertionError, match='line 1 has a relative import'):
        list(imported(ast.parse('from ..storage import paths'), trees()))

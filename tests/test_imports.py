"""The import rules: each room keeps the rule in its docstring, and there are no import cycles.

A room is a folder of cls with a line `May import: a, b.` in its `__init__`, or a file directly in
cls with such a line. Imports inside functions count as well.
"""

import ast
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PURE = ('augment', 'models', 'nn', 'steps')  # rooms that only compute
IMPURE = {
    *('argparse', 'logging', 'ml_collections', 'os', 'pathlib', 'socket', 'subprocess', 'sys'),
    *('tempfile', 'threading', 'time'),
}


def modules(root):
    """Returns module name -> (syntax tree, whether it is a package) for each file of cls."""
    found = {}
    for path in sorted((root / 'cls').rglob('*.py')):
        parts = path.relative_to(root).with_suffix('').parts
        package = parts[-1] == '__init__'
        found['.'.join(parts[:-1] if package else parts)] = (ast.parse(path.read_text()), package)
    return found


def imported(tree, names):
    """Yields the modules that a file imports: full names of cls, top-level names of others."""
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


def graph(root):
    """Returns module -> modules of cls that it imports, module -> other packages, room -> rule."""
    found = modules(root)
    inner, outer, rules = {}, {}, {}
    for name, (tree, package) in found.items():
        targets = set(imported(tree, found)) - {name}
        inner[name] = targets & set(found)
        outer[name] = targets - set(found)
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


def violations(root):
    """Returns a line for each import that breaks a rule, directly or through others."""
    inner, outer, rules = graph(root)
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
        if not is_in(own, PURE):
            continue
        lines += [f'{name} imports {other}: it computes only' for other in outer[name] & IMPURE]
        lines += [
            f'{name} reaches {other}'
            for other in sorted(reached(name, inner))
            if not is_in(room(other, rules), (*PURE, 'errors'))
        ]
    return lines


def circles(edges):
    """Returns the nodes that can be reached from themselves."""
    return sorted(name for name in edges if name in reached(name, edges))


def test_every_file_is_in_a_room_with_a_rule():
    inner, _, rules = graph(ROOT)
    outside = [name for name in inner if not room(name, rules)]
    assert outside == ['cls']
    folders = {path.parent.name for path in (ROOT / 'cls').glob('*/__init__.py')}
    assert folders <= set(rules)


def test_each_room_imports_what_its_docstring_says():
    assert violations(ROOT) == []


def test_no_file_imports_itself_through_others():
    inner, _, _ = graph(ROOT)
    assert circles(inner) == []


def test_no_room_imports_itself_through_others():
    inner, _, rules = graph(ROOT)
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
        ('nn/units.py', 'import threading', 'cls.nn.units imports threading'),
        (
            'errors.py',
            'from cls.distributed import agreement',
            'cls.nn.limits reaches cls.distributed',
        ),
    ],
)
def test_a_planted_import_is_found(tmp_path, file, line, said):
    shutil.copytree(ROOT / 'cls', tmp_path / 'cls', ignore=shutil.ignore_patterns('__pycache__'))
    path = tmp_path / 'cls' / file
    path.write_text(f'{path.read_text()}\n\n{line}\n')
    before, after = violations(ROOT), violations(tmp_path)
    assert any(said in violation for violation in set(after) - set(before))

"""What the code imports is what it asks to be installed."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OWN = {'cls', 'configs', 'launch'}
# Imported where a user asks for what needs them, and named in a message or a requirements file.
OPTIONAL = {
    'gcsfs': 'pyproject.toml',
    's3fs': 'pyproject.toml',
    'ray': 'pyproject.toml',
    'libtpu': 'launch/requirements-tpu.txt',
    'tensorflow': 'cls/tools/prepare.py',
    'torch': 'cls/tools/benchmark_input.py',
    'torchvision': 'cls/tools/benchmark_input.py',
}
# Required for what others import: JAX its binary, TFDS the form of its files.
FOR_OTHERS = {'jaxlib', 'array-record'}


def imported():
    """(top-level module, file) of every import below cls/, configs/ and launch/."""
    for file in (file for folder in sorted(OWN) for file in sorted((ROOT / folder).rglob('*.py'))):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for module in {name.partition('.')[0] for name in names}:
                if not (file.parent / f'{module}.py').exists():  # beside a script
                    yield module, file.relative_to(ROOT)


def required():
    """Names of distributions in requirements.txt, normalized."""
    for line in (ROOT / 'requirements.txt').read_text().splitlines():
        if match := re.match(r'[A-Za-z0-9_.-]+', line.partition('#')[0]):
            yield normalized(match[0])


def normalized(name):
    return re.sub('[-_.]+', '-', name).lower()


def test_everything_that_is_imported_is_required():
    of = importlib.metadata.packages_distributions()
    needed, listed, missing = set(), set(required()), []
    for module, file in imported():
        if module in OWN or module in sys.stdlib_module_names or module in OPTIONAL:
            continue
        distributions = {normalized(name) for name in of.get(module, [module])}
        needed |= distributions
        if not distributions & listed:
            missing.append(f'{module} of {file}')
    assert not missing
    assert listed - needed == FOR_OTHERS, 'required and imported nowhere'


@pytest.mark.parametrize(('module', 'file'), OPTIONAL.items())
def test_what_is_optional_is_written_down(module, file):
    assert module.replace('_', '-') in (ROOT / file).read_text().replace('_', '-')


def test_what_is_installed_is_in_the_ranges():
    packaging = pytest.importorskip('packaging.requirements')
    for line in (ROOT / 'requirements.txt').read_text().splitlines():
        if text := line.partition('#')[0].strip():
            requirement = packaging.Requirement(text)
            assert requirement.specifier.contains(importlib.metadata.version(requirement.name))


def test_the_extras_are_read():
    extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    assert set(extras['optional-dependencies']) == {'gcs', 's3', 'ray'}

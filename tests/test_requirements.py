"""Requirements: the packages that the code imports."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from cls.config import load
from cls.errors import UserError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
OWN = {'cls', 'configs', 'launch'}
# Imported on demand, and named in a message or a requirements file.
OPTIONAL = {
    'gcsfs': 'pyproject.toml',
    's3fs': 'pyproject.toml',
    'ray': 'pyproject.toml',
    'optuna': 'pyproject.toml',
    'submitit': 'pyproject.toml',
    'wandb': 'pyproject.toml',
    'mlflow': 'pyproject.toml',
    'trackio': 'pyproject.toml',
    'onnx': 'pyproject.toml',
    'onnxruntime': 'pyproject.toml',
    'litert_converter': 'cls/inference/export/litert.py',
    'ai_edge_litert': 'cls/inference/export/litert.py',
    'fastapi': 'pyproject.toml',
    'tifffile': 'pyproject.toml',
    'starlette': 'cls/inference/serving/app.py',
    'uvicorn': 'pyproject.toml',
    'prometheus_client': 'pyproject.toml',
    'pydantic': 'cls/inference/serving/app.py',
    'libtpu': 'launch/requirements-tpu.txt',
    'tensorflow': 'cls/tools/prepare.py',
    'torch': 'cls/tools/benchmark_input.py',
    'torchvision': 'cls/tools/benchmark_input.py',
    'timm': 'cls/tools/benchmark_networks.py',
    'pytorchcv': 'cls/tools/benchmark_networks.py',
}
# Required by other packages: JAX's binary, the file format of TFDS, pip's build.
FOR_OTHERS = {'jaxlib', 'array-record', 'setuptools'}


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
                if not (file.parent / f'{module}.py').exists():  # next to a script
                    yield module, file.relative_to(ROOT)


def required():
    """Returns the normalized names of distributions in requirements.txt."""
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


def lines(file):
    """Returns the requirements in a file, without comments and included files."""
    texts = [line.partition('#')[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return {text for text in texts if text and not text.startswith('-r')}


def test_a_checkout_and_a_wheel_require_the_same():
    """requirements.txt has the base, the extra search, and the build of the command cls."""
    extras = PROJECT['project']['optional-dependencies']
    wanted = [*PROJECT['project']['dependencies'], *extras['search']]
    wanted += PROJECT['build-system']['requires']
    assert lines('requirements.txt') == set(wanted)
    assert len(wanted) == len(set(wanted))
    assert lines('tests/requirements.txt') == set(extras['dev'])


def test_the_extras():
    extras = PROJECT['project']['optional-dependencies']
    loggers = {'wandb', 'mlflow', 'trackio'}
    assert set(extras) == loggers | {
        *('search', 'sweep', 'gcs', 's3', 'ray', 'onednn', 'serve', 'onnx', 'tiff', 'dev'),
    }


@pytest.mark.sweep
@pytest.mark.parametrize('more', ['', 'gcs,s3,'])
@pytest.mark.parametrize('name', ['wandb', 'mlflow', 'trackio'])
def test_a_logger_can_be_installed_with_the_base_and_the_stores(name, more, tmp_path):
    """Asks the package index; run with: ./launch/test.sh -m sweep -k installed."""
    venv.create(tmp_path, with_pip=True)
    extras = PROJECT['project']['optional-dependencies']
    wanted = list(PROJECT['project']['dependencies'])
    for extra in f'{more}{name}'.split(','):
        wanted += extras[extra]
    done = subprocess.run(
        [tmp_path / 'bin/python', '-m', 'pip', 'install', '-q', '--dry-run', *wanted],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_training_and_import_need_no_extra():
    """The modules of the extra search are imported only in cls.search and by its report."""
    names = {'matplotlib', 'yaml'}
    users = {file for module, file in imported() if module in names}
    allowed = ('cls/search/', 'cls/tools/search_report.py', 'cls/experiments/figures.py')
    assert users
    assert not [file for file in users if not str(file).startswith(allowed)]


@pytest.mark.parametrize('module', ['matplotlib', 'yaml'])
def test_a_search_without_its_extra_says_what_to_install(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{module} is not .*pip install 'cls\[search\]'"):
        load.load('search/genet')
    assert load.load('genet').model.name == 'genet_2_cifar'

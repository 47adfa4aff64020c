"""The recipes and the command in a wheel, in an editable install and in a bare checkout.

Each is used in a folder with a package `configs` of another project.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--no-input', '-q']
PARTS = ('cls', 'configs', 'pyproject.toml', 'LICENSE')

# Prints the folder of the recipes, and loads some by name, by file and as modules.
PROGRAM = """
import sys, configs, cls, cls.recipes
from cls import cli
from cls.config import load
from cls.errors import UserError
from cls.recipes import resnet
from cls.recipes.search import nasnet

assert configs.FOREIGN
assert load.load('resnet').model.name == 'resnet20_cifar'
assert load.load('resnet:cifar10').model.name == 'resnet56_cifar'
assert load.load('configs/wrn.py').model.name == 'wrn40_2_cifar'
assert load.load('search/nasnet').search.space.name == 'nasnet'
assert resnet.get_config('cifar10').model.name == 'resnet56_cifar'
assert nasnet.get_config().search.system == 'configs/nasnet.py'
try:
    load.load('configs/resnet.py')
except UserError as error:
    assert 'a foreign file' in str(error), error
else:
    raise AssertionError('configs/resnet.py of this folder was passed over')
[folder] = cls.recipes.__path__
print(folder)
"""


@pytest.fixture(scope='module')
def elsewhere(tmp_path_factory):
    """A folder with a package `configs` of another project."""
    folder = tmp_path_factory.mktemp('elsewhere')
    (folder / 'configs').mkdir()
    (folder / 'configs/__init__.py').write_text('FOREIGN = True\n')
    for name in ('common', 'resnet'):
        (folder / f'configs/{name}.py').write_text("raise RuntimeError('a foreign file')\n")
    return folder


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of the checkout, for builds to write to."""
    folder = tmp_path_factory.mktemp('checkout')
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns('__pycache__')
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder)
    return folder


def environment(folder):
    """A virtual environment with the packages of the current one, except cls itself."""
    venv.create(folder, with_pip=False)
    python = folder / 'bin/python'
    own = Path(sysconfig.get_path('purelib', 'venv', {'base': folder, 'platbase': folder}))
    shared = [path for path in sys.path if path.endswith('site-packages')]
    (own / 'shared.pth').write_text('\n'.join(shared) + '\n')
    return python


def pip(*arguments, **options):
    done = subprocess.run([*PIP, *arguments], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr


def used(python, folder, **variables):
    """Runs PROGRAM, which uses the recipes; returns their folder."""
    plain = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run(
        [python, '-c', PROGRAM],
        cwd=folder,
        env=plain | variables | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope='module')
def wheel(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    # --no-build-isolation: with the setuptools of this environment, without a package index.
    pip('wheel', '--no-deps', '--no-build-isolation', '--no-index', '-w', folder, checkout)
    [file] = folder.glob('*.whl')
    return file


def test_a_wheel_has_all_files_and_no_package_configs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {name for name in names if not name.startswith('cls-')}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'cls').rglob('*')
        if path.suffix in ('.py', '.json', '.typed', '.cc', '.h', '.csv', '.html', '.xz')
    }
    wanted |= {
        f'cls/recipes/{path.relative_to(ROOT / "configs").as_posix()}'
        for path in (ROOT / 'configs').rglob('*.py')
    }
    assert code == wanted


def test_recipes_in_a_wheel(wheel, elsewhere, tmp_path):
    python = environment(tmp_path)
    pip('--python', python, 'install', '--no-deps', '--no-index', wheel)
    recipes = used(python, elsewhere)
    assert recipes.relative_to(tmp_path).parts[-3:] == ('site-packages', 'cls', 'recipes')
    done = subprocess.run(
        [tmp_path / 'bin/cls', 'nothing'], cwd=elsewhere, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith("error: there is no command 'nothing'")


def test_recipes_in_an_editable_install(checkout, elsewhere, tmp_path):
    python = environment(tmp_path)
    install = ('install', '--no-deps', '--no-index', '--no-build-isolation', '-e', checkout)
    # pip builds in the environment that it installs into, so setuptools must be in it.
    pip('--python', python, *install)
    assert used(python, elsewhere) == checkout / 'configs'
    done = subprocess.run([tmp_path / 'bin/cls', '--version'], capture_output=True, text=True)
    assert done.stdout.startswith('cls '), done.stderr


def test_recipes_in_a_bare_checkout(elsewhere, tmp_path):
    python = environment(tmp_path)
    assert used(python, elsewhere, PYTHONPATH=str(ROOT)) == ROOT / 'configs'


def test_the_packages_of_the_wheel_are_all_folders_with_code():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
    files = subprocess.run(
        ['git', 'ls-files', 'cls', 'configs'], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split()
    folders = {Path(file).parent for file in files if file.endswith('.py')}
    recipes = {'configs': 'cls.recipes', 'configs/search': 'cls.recipes.search'}
    names = {recipes.get(str(folder), '.'.join(folder.parts)) for folder in folders}
    assert names == set(project['tool']['setuptools']['packages'])

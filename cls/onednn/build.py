"""Compiles the extension, in a few seconds, into the cache."""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax

from cls.errors import UserError
from cls.storage.cache import cache_dir

SOURCE = Path(__file__).with_name('extension.cc')  # includes the others
PACKAGES = ('onednn-cpu-gomp', 'onednn-devel-cpu-gomp')
LIBRARY, HEADER = 'libdnnl.so.3', 'oneapi/dnnl/dnnl.hpp'


def installed(package: str, ending: str) -> Path | None:
    """Returns the file of an installed package whose path ends so, None if there is none."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())).resolve() for file in files if str(file).endswith(ending))
    return next((path for path in paths if path.is_file()), None)


def target() -> Path:
    """Returns the path of the extension for this source, these headers and this oneDNN."""
    versions = [importlib.metadata.version('jaxlib')]
    for package in PACKAGES:
        try:
            versions.append(importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            versions.append('none')
    files = sorted(file for file in SOURCE.parent.iterdir() if file.suffix in ('.cc', '.h'))
    texts = [(file.name, file.read_text()) for file in files]
    key = hashlib.sha256(repr([*texts, *versions]).encode()).hexdigest()
    return cache_dir() / f'onednn-{key[:16]}.so'


def build() -> Path:
    """Compiles the extension unless the cache has it, and returns its path.

    Raises UserError without the packages or without g++, and if the compiler fails.
    """
    path = target()
    if path.exists():
        return path
    library, header = installed(PACKAGES[0], LIBRARY), installed(PACKAGES[1], HEADER)
    if library is None or header is None:
        raise UserError(
            f'the packages {" and ".join(PACKAGES)} are not installed (Linux on x86-64 has them): '
            "pip install 'cls[onednn]'"
        )
    compiler = os.environ.get('CXX') or shutil.which('g++')
    if compiler is None:
        raise UserError('there is no g++: install it, or set CXX to a C++ compiler.')
    include = header.parents[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, '-std=c++17', '-O2', '-fopenmp', '-fPIC', '-shared', '-w']
        command += [str(SOURCE)]
        command += [f'-I{include}', f'-I{jax.ffi.include_dir()}', str(library), '-o', str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except OSError as error:
            raise UserError(f'{compiler} cannot be run: {error.strerror}.') from error
        except subprocess.CalledProcessError as error:
            raise UserError(
                f'{compiler} failed ({" ".join(command)}):\n{error.stderr.strip()}'
            ) from error
        made.replace(path)
    return path

"""Compiles the extension, in a few seconds, into the cache."""

import hashlib
import importlib.metadata
import os
import shlex
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
_DIGEST = hashlib.sha256().digest_size  # bytes at the end of an extension


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
    return cache_dir().resolve() / f'onednn-{key[:16]}.so'


def is_whole(path: Path) -> bool:
    """Returns whether a file is an extension as `build` wrote it, False if there is none.

    The last bytes of the file are the digest of those before: to load a shortened library can kill
    the process. Raises OSError for a file that cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]


def build() -> Path:
    """Compiles the extension unless the cache has it whole, and returns its path.

    Raises UserError without the packages or without g++, and if the compiler fails.
    """
    path = target()
    if is_whole(path):
        return path
    library, header = installed(PACKAGES[0], LIBRARY), installed(PACKAGES[1], HEADER)
    if library is None or header is None:
        raise UserError(
            f'the packages {" and ".join(PACKAGES)} are not installed (Linux on x86-64 has them): '
            "pip install 'cls[onednn]'"
        )
    try:
        compiler = shlex.split(os.environ.get('CXX', '')) or [shutil.which('g++') or '']
    except ValueError as error:
        raise UserError(f'CXX is {os.environ["CXX"]!r}: {error}.') from error
    if not compiler[0]:
        raise UserError('there is no g++: install it, or set CXX to a C++ compiler.')
    include = header.parents[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [*compiler, '-std=c++17', '-O2', '-fopenmp', '-fPIC', '-shared', '-w']
        command += [str(SOURCE)]
        command += [f'-I{include}', f'-I{jax.ffi.include_dir()}', str(library), '-o', str(made)]
        _compile(command, path.with_suffix('.log'))
        if not made.is_file():
            raise UserError(f'{shlex.join(compiler)} made no file: set CXX to a C++ compiler.')
        with made.open('r+b') as file:
            file.write(hashlib.sha256(file.read()).digest())
            file.flush()
            os.fsync(file.fileno())  # before the file has its name
        made.replace(path)
    return path


def _compile(command: list[str], log: Path) -> None:
    """Runs a compiler. Raises UserError with its first error; the others are in the log."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors='replace')
    except OSError as error:
        raise UserError(f'{command[0]} cannot be run: {error.strerror}.') from error
    if not done.returncode:
        return
    log.write_text(f'{shlex.join(command)}\n{done.stderr}', errors='replace')
    lines = done.stderr.splitlines() or [f'code {done.returncode}, without a message']
    first = next((line for line in lines if 'error' in line), lines[0])
    raise UserError(f'{command[0]} failed: {first.strip()[:300]} ({log} has all of it).')

"""Compiled programs of earlier processes, to be neither traced nor compiled again.

JAX's persistent cache finds a program by its text, so each process traces and lowers its programs
before it can look: most of the time to the first step where the cache is filled. Here a program is
found by everything that its text can depend on: the function with all that it closes over, the
shapes and shardings of its arguments, the sources of this package and of modules outside of the
environment, the versions of the libraries, JAX's settings, and the machine. The same program is
then loaded as it was compiled, and computes the same numbers.

Programs for a single CPU process are kept, in a folder `programs` of JAX's persistent cache. Each
change of a source makes another program, so those that were longest not used are removed.
"""

import contextlib
import contextvars
import dataclasses
import functools
import gc
import hashlib
import importlib.metadata
import io
import logging
import os
import pickle
import platform
import site
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import NamedSharding

from cls.onednn.load import registered
from cls.run.environment import return_memory
from cls.storage import paths

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'chex', 'numpy', 'cloudpickle')
_FORMAT = b'cls executable 1\n'
_MOST = 2**30  # bytes of the folder
_IMPORTED = time.time()
_enabled = False
_files: set[str] = set()  # sources that are no modules
_hits: list[str] = []  # of JAX's persistent cache
_settings: Any = jax.config


def enable(files: Sequence[str]) -> None:
    """Keeps the programs that this process compiles from now on with `compiled`.

    It is for commands: in a notebook functions of this package may have been replaced.

    Args:
      files: further sources of the process, its config files.
    """
    global _enabled
    if not _enabled:
        jax.monitoring.register_event_listener(_count_hits)
    _enabled = True
    _files.update(files)


def _count_hits(event: str, **_: Any) -> None:
    if event == '/jax/compilation_cache/cache_hits':
        _hits.append(event)


def compiled(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    compiler_options: Any = None,
    keep: bool = True,
    **options: Any,
) -> Any:
    """Returns a compiled function, of an earlier process if it kept the same program.

    Args:
      function: the function.
      arguments: the shapes, dtypes and shardings of its arguments.
      compiler_options: names and values for XLA's compiler.
      keep: whether the program is looked for and kept.
      options: those of jax.jit.
    """

    def compile_it() -> Any:
        with _uncollected():
            lowered = jax.jit(function, **options).lower(*arguments)
            program = lowered.compile(compiler_options=compiler_options)
        return_memory()
        return program

    key = _key((function, arguments, compiler_options, options)) if keep else None
    if key is None:
        return compile_it()
    file = Path(_settings.jax_compilation_cache_dir) / 'programs' / key
    program = _read(file, _devices(arguments))
    if program is None:
        before = len(_hits)
        program = compile_it()
        # A program from JAX's cache loses functions when it is serialized a second time
        # (findings/jax_cached_programs_serialized.sh).
        if len(_hits) == before:
            _write(file, program)
    return program


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """A context in which Python does not look for garbage.

    Tracing makes many objects that stay, and Python would look through them again and again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _key(program: Any) -> str | None:
    """Returns the name of a program; None if programs are not kept, or this one has no name."""
    folder = _settings.jax_enable_compilation_cache and _settings.jax_compilation_cache_dir
    if not _enabled or not folder or paths.is_remote(folder):
        return None
    devices = jax.devices()
    if jax.process_count() > 1 or devices[0].platform != 'cpu':
        return None
    try:
        content = _content(program)
        sources = [_sources(), *_outside(list(sys.modules.values()))]
    except Exception as error:  # of any kind, raised by what is pickled
        log.debug('a program is not kept: %s', error)
        return None
    around = (
        *(sources, _machine(), registered(), [repr(x) for x in devices]),
        sorted((name, repr(value)) for name, value in _settings.values.items()),
        sorted(
            (variable.name, value)
            for variable, value in contextvars.copy_context().items()
            if isinstance(value, bool)  # as those of cls.nn, for how programs are traced
        ),
        sorted(x for x in os.environ.items() if x[0].startswith(('CLS_', 'JAX_', 'XLA_', 'OMP_'))),
    )
    return hashlib.sha256(content + repr(around).encode()).hexdigest()


def _content(program: Any) -> bytes:
    """Returns the bytes of functions, with all that they close over, and of other objects.

    Raises an error of any kind if an object has none.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        """Writes by their descriptions what is of this process or made by JAX."""

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, jax.Device) or obj is jax.Array:
                return str, (repr(obj),)
            if isinstance(obj, jax.Array):
                return np.asarray, (np.asarray(obj),)
            if isinstance(obj, type) and obj.__module__ not in sys.modules:
                raise ValueError(f'{obj} has another name in each process')  # cloudpickle's
            if isinstance(obj, nn.Module):  # pickled, it has a number that counts modules
                fields = [x.name for x in dataclasses.fields(obj) if x.name != 'parent']
                return type(obj), tuple((name, getattr(obj, name)) for name in fields)
            if type(obj) is _JITTED:  # its options are in the source
                return tuple, ((obj.__wrapped__,),)
            return super().reducer_override(obj)

    buffer = io.BytesIO()
    Pickler(buffer).dump(program)
    return buffer.getvalue()


_JITTED: Any = type(jax.jit(lambda: None))


def _outside(modules: list[ModuleType]) -> list[tuple[str, str]]:
    """Returns the files of modules that belong neither to this package nor to the environment.

    A function of such a module is pickled by its name, so that its content has to be named too.
    """
    files = {str(getattr(module, '__file__', None) or '') for module in modules}
    ours = (str(_PACKAGE), *_environment())
    outside = sorted(file for file in files | _files if file and not file.startswith(ours))
    return [(file, _hash(Path(file))) for file in outside]


@functools.cache
def _environment() -> tuple[str, ...]:
    """Returns the folders of the interpreter and of installed packages."""
    return (*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values())


def _hash(file: Path) -> str:
    """Returns the hash of a source. Raises ValueError if it is younger than this process.

    Such a process may have read the file before it changed.
    """
    if file.stat().st_ctime > _began() - 1:
        raise ValueError(f'{file} has changed')
    return hashlib.sha256(file.read_bytes()).hexdigest()


@functools.cache
def _began() -> float:
    """Returns when this process began, in seconds since 1970, to a second."""
    try:
        ticks = int(Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19])
        lines = Path('/proc/stat').read_text().splitlines()
        (boot,) = (x.split()[1] for x in lines if x.startswith('btime '))
        return int(boot) + ticks / os.sysconf('SC_CLK_TCK')
    except (OSError, KeyError, ValueError, IndexError):  # not Linux
        return _IMPORTED


@functools.cache
def _sources() -> str:
    """Returns a hash of the sources of this package as they were at the first call."""
    digest = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob('*.py')):
        digest.update(f'{file.relative_to(_PACKAGE)}\n{_hash(file)}\n'.encode())
    return digest.hexdigest()


@functools.cache
def _machine() -> tuple[str, ...]:
    """Returns the versions of the libraries, and what a compiler may ask of the processor."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    processor = sorted({x for x in lines if x.startswith(('flags', 'Features', 'model name'))})
    versions = [f'{name} {importlib.metadata.version(name)}' for name in _LIBRARIES]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return (sys.version, platform.platform(), f'{cores} cores', *versions, *processor)


def _devices(arguments: Any) -> list[Any]:
    """Returns the devices of a program, in their order."""
    for x in jax.tree.leaves(arguments):
        if isinstance(sharding := getattr(x, 'sharding', None), NamedSharding):
            return np.asarray(sharding.mesh.devices).ravel().tolist()
    return jax.devices()[:1]


def _read(file: Path, devices: list[Any]) -> Any:
    """Returns the program of a file for devices, None if there is none or it is damaged."""
    from jax.experimental import serialize_executable

    try:
        content = file.read_bytes()
    except OSError:
        return None
    head = _FORMAT + hashlib.sha256(content[len(_FORMAT) + 32 :]).digest()
    if content[: len(head)] != head:
        return None
    try:
        parts = pickle.loads(content[len(head) :])
        with contextlib.suppress(OSError):  # of a folder that is only read
            os.utime(file)  # the time of its last use, for `_prune`
        return serialize_executable.deserialize_and_load(*parts, execution_devices=devices)
    except Exception as error:  # of any kind, raised by XLA
        log.debug('%s cannot be loaded: %s', file, error)
        return None


def _write(file: Path, program: Any) -> None:
    """Writes a program to a file; nothing is written if it cannot be."""
    from jax.experimental import serialize_executable

    try:
        content = pickle.dumps(serialize_executable.serialize(program))
    except Exception as error:  # of any kind: not every executable can be serialized
        log.debug('a program is not kept: %s', error)
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        paths.write_whole(file, _FORMAT + hashlib.sha256(content).digest() + content)
        _prune(file.parent)
    except OSError as error:
        log.debug('a program is not kept in %s: %s', file.parent, error)


def _prune(folder: Path) -> None:
    """Removes the files that were longest not used, so that at most _MOST bytes are left."""
    found = []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            found.append((file.stat(), file))
    left = _MOST
    for stat, file in sorted(found, key=lambda one: one[0].st_mtime, reverse=True):
        left -= stat.st_size
        if left < 0:
            file.unlink(missing_ok=True)

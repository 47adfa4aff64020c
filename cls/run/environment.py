"""The environment of a run: settings of JAX and other libraries, versions, devices."""

import ctypes
import importlib.metadata
import logging
import os
import subprocess
import tempfile
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

import jax
from absl import logging as absl_logging

from cls.errors import reason
from cls.onednn.load import load
from cls.storage.cache import cache_dir

log = logging.getLogger(__name__)

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


def start() -> None:
    """Enables the extension for CPUs, if it was built, and JAX's persistent compilation cache.

    The cache is in the folder JAX_COMPILATION_CACHE_DIR, if this is set. If it cannot be written,
    one warning replaces JAX's warnings for each program. Libraries are silenced, see `quiet`.
    """
    load()
    if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        _keep_programs()
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    quiet()


def prepare() -> None:
    """Does as `start` for a library: a cache that the program has set stays, and so do the logs."""
    settings: Any = jax.config
    load()
    if not settings.jax_compilation_cache_dir:
        _keep_programs()
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def _keep_programs() -> None:
    """Sets the folder of the compilation cache; warns if it cannot be written."""
    cache = cache_dir() / 'xla'
    jax.config.update('jax_compilation_cache_dir', str(cache))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache) as probe:
            probe.write(bytes(2**20))
    except OSError as error:
        log.warning('compiled programs are not kept in %s: %s.', cache, error.strerror)


def return_memory() -> None:
    """Gives freed memory back to the system, with the GNU C library.

    A compilation frees hundreds of MB that the library would keep, in pieces too small for the
    arrays of a step; so does the reading of a checkpoint.
    """
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)


def quiet() -> None:
    """Silences the logs of errors in threads of libraries; the waiting thread raises them as well.

    Otherwise a full disk would be one line of ours below hundreds of theirs.
    """
    # Orbax logs each save and each error of its threads, although it also raises these.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    threading.excepthook = _of_thread
    warnings.filterwarnings('ignore', message='Error (reading|writing) persistent compilation')


def _of_thread(args: Any) -> None:
    """Prints an error of our own threads as Python would, unless it is about a file."""
    ours = any(
        Path(frame.filename).is_relative_to(Path(__file__).parents[1])
        for frame in traceback.extract_tb(args.exc_traceback)
    )
    if ours and not reason(args.exc_value):
        threading.__excepthook__(args)


def _commit() -> str | None:
    """Returns the commit of this code, with '-dirty' if it was changed; None without git."""
    describe = ['git', '-C', str(Path(__file__).parent), 'describe']
    try:
        result = subprocess.run(
            [*describe, '--always', '--dirty', '--abbrev=40'],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # an image without git
        return None
    return result.stdout.strip() or None


def environment(registered_by: str = '') -> dict[str, Any]:
    """Returns the versions, code and devices that a run depends on.

    Args:
      registered_by: the user's own config file that registers the run's model, '' without one.
    """
    own = {'registered_by': registered_by} if registered_by else {}
    return own | {
        'packages': {name: importlib.metadata.version(name) for name in PACKAGES},
        'commit': _commit(),
        'device_kind': jax.devices()[0].device_kind,
        'device_count': jax.device_count(),
        'process_count': jax.process_count(),
    }

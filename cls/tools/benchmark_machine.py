"""The machine of a measurement: its cores, its description, the versions of packages."""

import contextlib
import datetime
import os
import platform
import socket
from collections.abc import Iterator
from typing import Any

from cls import __version__
from cls.errors import UserError


@contextlib.contextmanager
def cores(count: int = 0) -> Iterator[int]:
    """Limits this process, and processes that it starts, to a number of cores; yields it.

    Args:
      count: 0: all that the process may use.

    Raises UserError for more cores than there are.
    """
    usable = os.sched_getaffinity(0)
    if not 0 <= count <= len(usable):
        raise UserError(f'--threads is {count}: expected 1 to {len(usable)}, the usable cores.')
    os.sched_setaffinity(0, sorted(usable)[: count or None])
    try:
        yield count or len(usable)
    finally:
        os.sched_setaffinity(0, usable)


def record(threads: int) -> dict[str, Any]:
    """Returns the date, the machine and the versions of packages, for JSON."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    machine = {'processor': processor(), 'threads': threads, 'memory_gib': round(memory / 2**30)}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {'date': date, 'machine': machine, 'versions': {'cls': __version__}}


def processor() -> str:
    """Returns the name of the processor, with the vectors that convolutions can use."""
    about: dict[str, str] = {}
    with contextlib.suppress(OSError), open('/proc/cpuinfo') as file:
        for line in file:
            name, _, value = line.partition(':')
            about.setdefault(name.strip(), value.strip())
    flags = about.get('flags', '').split()
    vectors = {'avx512f': ' with AVX-512', 'avx2': ' with AVX2'}
    found = next((text for flag, text in vectors.items() if flag in flags), '')
    return about.get('model name', platform.machine()) + found


def free_port() -> int:
    """Returns a port of this machine that no program listens to."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]

"""Huge pages for the arrays of programs on CPUs.

A training step allocates its intermediate results, often a gigabyte, and returns them at its end.
To provide them in pages of 4 KB takes the system a good part of the step's time; in pages of 2 MB
(Linux, "transparent huge pages") much less. findings/jax_cpu_page_faults.sh counts the page faults.

May import: nothing.
"""

import os
import platform
import sys
from pathlib import Path

VARIABLE, SETTING = 'GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1'
_OFFERED = Path('/sys/kernel/mm/transparent_hugepage/enabled')


def setting() -> dict[str, str]:
    """Returns the environment variable with which a program's memory is in huge pages.

    Returns {} if the user has set the variable, if the system does not offer huge pages on request,
    and with a C library that does not ask for them (the GNU C library does from 2.35 on).
    """
    try:
        on_request = '[madvise]' in _OFFERED.read_text()
        library, version = platform.libc_ver()
        known = library == 'glibc' and tuple(map(int, version.split('.')[:2])) >= (2, 35)
    except (OSError, ValueError):
        return {}
    return {VARIABLE: SETTING} if on_request and known and VARIABLE not in os.environ else {}


def restart() -> None:
    """Starts this program again with `setting`, which the C library reads only at the start.

    The process stays the same. Call it before threads, files and locks; it returns if there is
    nothing to set.
    """
    variables = setting()
    if not variables or not sys.executable:
        return
    os.environ.update(variables)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

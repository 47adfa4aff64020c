"""The protocol of the processes that a benchmark times, on their standard input and output.

A process prints 'ready ' and a JSON object that describes it. Then each line of its input is
'WORK SKIP COUNT', and it prints the seconds of COUNT units of that work, after SKIP units that are
not timed.
"""

import ctypes
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def answer(works: Mapping[str, Callable[[int], float | None]], **about: Any) -> None:
    """Answers requests until the input ends.

    Args:
      works: name -> function that completes a number of units; it may return the seconds that
        count, by default all.
      **about: the description of the process.
    """
    end_with_parent()
    print('ready', json.dumps(about), flush=True)
    for line in sys.stdin:
        name, skip, count = line.split()
        works[name](int(skip))
        begin = time.perf_counter()
        seconds = works[name](int(count))
        print(time.perf_counter() - begin if seconds is None else seconds, flush=True)


def resident() -> int:
    """Returns the resident memory of this process in bytes, 0 on systems without /proc."""
    try:
        with open('/proc/self/statm') as file:
            return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    except OSError:
        return 0


def end_with_parent(*_: Any) -> None:
    """Lets Linux kill this process when its parent ends: a stopped process would stay."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def answer_with(**pipelines: Iterator[Any]) -> None:
    """Answers requests for works that are the next batches of a pipeline, by its name."""

    def take(batches: Iterator[Any], count: int) -> None:
        for _ in range(count):
            next(batches)

    works = {name: functools.partial(take, batches) for name, batches in pipelines.items()}
    for work in works.values():
        work(1)
    answer(works)

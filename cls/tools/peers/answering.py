"""The protocol of the processes that a benchmark times, on their standard input and output.

A process prints 'ready ' and a JSON object that describes it. Then each line of its input is
'WORK SKIP COUNT', and it prints the seconds of COUNT units of that work, after SKIP units that are
not timed.
"""

import functools
import json
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
    print('ready', json.dumps(about), flush=True)
    for line in sys.stdin:
        name, skip, count = line.split()
        works[name](int(skip))
        begin = time.perf_counter()
        seconds = works[name](int(count))
        print(time.perf_counter() - begin if seconds is None else seconds, flush=True)


def answer_with(**pipelines: Iterator[Any]) -> None:
    """Answers requests for works that are the next batches of a pipeline, by its name."""

    def take(batches: Iterator[Any], count: int) -> None:
        for _ in range(count):
            next(batches)

    works = {name: functools.partial(take, batches) for name, batches in pipelines.items()}
    for work in works.values():
        work(1)
    answer(works)

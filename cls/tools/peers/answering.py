"""The protocol of the processes that a benchmark times, on their standard input and output.

A process prints 'ready ' and a JSON object that describes it. Then each line of its input is
'WORK SKIP COUNT', and it prints the seconds of COUNT units of that work, after SKIP units that are
not timed.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def answer(works: Mapping[str, Callable[[int], None]], **about: Any) -> None:
    """Answers requests until the input ends.

    Args:
      works: name -> function that completes a number of units.
      **about: the description of the process.
    """
    print('ready', json.dumps(about), flush=True)
    for line in sys.stdin:
        name, skip, count = line.split()
        works[name](int(skip))
        begin = time.perf_counter()
        works[name](int(count))
        print(time.perf_counter() - begin, flush=True)


def answer_with(batches: Iterator[Any]) -> None:
    """Answers requests for the work 'batches': the next batches of a pipeline."""

    def take(count: int) -> None:
        for _ in range(count):
            next(batches)

    take(1)
    answer({'batches': take})

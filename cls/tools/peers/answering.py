"""The protocol of a peer of `benchmark --input`: each line of its input is 'SKIP COUNT'."""

import sys
import time
from collections.abc import Iterator
from typing import Any


def answer(batches: Iterator[Any]) -> None:
    """Prints for each line the seconds that COUNT batches took, after SKIP batches."""
    next(batches)
    print('ready', flush=True)
    for line in sys.stdin:
        skip, count = map(int, line.split())
        for _ in range(skip):
            next(batches)
        begin = time.perf_counter()
        for _ in range(count):
            next(batches)
        print(time.perf_counter() - begin, flush=True)

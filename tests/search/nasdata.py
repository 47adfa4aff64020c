"""Tables of trained architectures in the folder CLS_NASDATA, and searches of them.

See configs/search/README.md for where such tables come from.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cls.search.evaluators.table import Table
from cls.search.searcher import Searcher
from cls.search.spaces.tabular import NasBench201, NasBenchMacro


def file(name: str) -> Path:
    """Returns a file of the folder; skips the test without the folder."""
    folder = os.environ.get('CLS_NASDATA', '')
    if not folder:
        pytest.skip('CLS_NASDATA, the folder with tables of trained architectures, is not set')
    return Path(folder) / name


def nasbench201(seed: int) -> Table:
    """CIFAR-10: the searcher sees 12 epochs, the score is that of 200."""
    columns = ('ops', ('c10_val_12ep',), 'c10_test_200ep')
    return Table(NasBench201(), file('nasbench201/nb201.csv.gz'), *columns, seed=seed)


def macro(seed: int) -> Table:
    """CIFAR-10: the searcher sees one of three seeds, the score is their mean."""
    columns = ('arch', ('acc0', 'acc1', 'acc2'), 'mean')
    name = 'nasbench_macro/nasbench_macro.csv.gz'
    return Table(NasBenchMacro(), file(name), *columns, seed=seed)


def found(searcher: Searcher, table: Table, evaluations: int) -> float:
    """Returns the truth of the trial with the highest accuracy after a number of evaluations."""
    best = (-np.inf, 0.0)
    for _ in range(evaluations):
        trial = searcher.ask()
        metrics = table(trial)
        searcher.tell(trial, metrics['accuracy'])
        best = max(best, (metrics['accuracy'], metrics['truth']), key=lambda pair: pair[0])
    return best[1]


def gain(
    make: Callable[..., Searcher],
    other: Callable[..., Searcher],
    table: Callable[[int], Table],
    evaluations: int,
    repeats: int,
) -> np.ndarray:
    """Returns the difference between the finds of two searchers, for each seed."""
    tables = [table(seed) for seed in range(repeats)]
    return np.array(
        [
            found(make(t.space, seed), t, evaluations) - found(other(t.space, seed), t, evaluations)
            for seed, t in enumerate(tables)
        ]
    )

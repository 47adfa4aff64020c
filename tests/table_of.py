"""A table in the format of NAS-Bench-Macro with computed accuracies, and searches that use it."""

import csv
import itertools

import numpy as np

from cls.config import load as configs

BEST = '22212202'


def truth(arch):
    """Returns an accuracy in percent: the more layers agree with BEST the better."""
    weights = 0.8 ** np.arange(8)
    agree = np.array([a == b for a, b in zip(arch, BEST, strict=True)])
    return float(80 + 15 * (agree * weights).sum() / weights.sum())


def write(file):
    """Writes the table; the accuracy of each seed differs from the mean by a random number."""
    rng = np.random.default_rng(0)
    with file.open('w') as lines:
        rows = csv.writer(lines)
        rows.writerow(['arch', 'acc0', 'acc1', 'acc2', 'mean'])
        for digits in itertools.product('012', repeat=8):
            noise = rng.normal(0, 0.3, 3)
            mean = truth(digits)
            rows.writerow([''.join(digits), *(mean + noise).round(4), round(mean, 4)])
    return file


def config(file, *overrides):
    """Returns the config of AmoebaNet's search in the table, with a smaller population."""
    fields = (('search.searcher.population', '20'), ('search.searcher.sample', '5'))
    fields += (('search.table', str(file)), ('search.evaluations', '60'), *overrides)
    return configs.load('configs/search/amoebanet.py:macro', fields)

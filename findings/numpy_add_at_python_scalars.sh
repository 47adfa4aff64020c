#!/usr/bin/env bash
# NumPy 2.4.6: np.add.at with a Python number takes many times as long as with a NumPy scalar of the
# array's type.
#
# One would guess that counting with np.add.at(counts, index, 1) into int32 is as fast as into int64: since
# NumPy 2 a Python number has no type of its own and takes that of the array (NEP 50), and since NumPy 1.25
# ufunc.at is fast when nothing is cast. But ufunc.at makes an int64 array of the 1 before the types are
# resolved: the sum is one of int64, and each element of the int32 array is cast there and back, off the
# fast path. float32 and 1, and float64 and 1, are cast likewise. With np.int32(1), np.float32(1) the call is
# fast, and with 1 it is for int64.
# Hurt: who counts or sums into arrays of 32 bits, chosen to save memory: histograms, confusion matrices,
# scatter-adds. Ours of all probabilities of an evaluation took 20 times as long.
# Source: numpy/_core/src/umath/ufunc_object.c, ufunc_at (`fast_path`), of NumPy 2.4.6; release notes of
# NumPy 1.25, "Faster np.add.at"; NEP 50.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check numpy==2.4.6
"$folder/venv/bin/python" - <<'END'
import sys
import time

import numpy as np

index = np.random.default_rng(0).integers(1_000_000, size=500_000)
ratios = {}
for kind in (np.int32, np.int64, np.float32, np.float64):
    seconds = {}
    for value in (1, kind(1)):
        counts, best = np.zeros(1_000_000, kind), np.inf
        for _ in range(5):
            begin = time.process_time()
            np.add.at(counts, index, value)
            best = min(best, time.process_time() - begin)
        assert counts.sum() == 5 * len(index)
        seconds[type(value).__name__] = best
    python, own = seconds.values()
    ratios[kind.__name__] = python / own
    print(f'{kind.__name__:>7}: with 1 {1e3 * python:6.1f} ms, with its own type {1e3 * own:5.1f} ms')
print(f'NumPy {np.__version__}: ' + ', '.join(f'{k} {r:.0f}x' for k, r in ratios.items()))
slow = {name for name, ratio in ratios.items() if ratio > 4}
if slow != {'int32', 'float32', 'float64'}:
    sys.exit('the behavior has changed')
END

"""Published image classifiers as pure-function Flax models, their recipes, and one trainer."""

import sys
import time

# The start of the program, for its account of time. That of the process would be the start of a
# script that installed everything and then became this program by `exec`.
BEGAN = time.perf_counter()

if sys.argv[:1] == ['-m']:  # python -m cls.NAME, which imports this first
    from cls import signals

    signals.begin(sys.orig_argv)

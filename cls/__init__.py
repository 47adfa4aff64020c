"""Published image classifiers as pure-function Flax models, their recipes, and one trainer."""

import sys

if sys.argv[:1] == ['-m']:  # python -m cls.NAME, which imports this first
    from cls import signals

    signals.begin(sys.orig_argv)

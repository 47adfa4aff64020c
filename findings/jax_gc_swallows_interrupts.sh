#!/usr/bin/env bash
# jax 0.10.2: a KeyboardInterrupt (Ctrl-C) that arrives during a garbage collection is lost.
#
# One would guess that `import jax` does not affect signals: an exception from a Python signal handler,
# such as the KeyboardInterrupt of Ctrl-C, reaches the program. But jax adds a Python function to
# gc.callbacks. Python runs a pending signal handler when it next enters a Python function; for a signal
# that arrives during a collection (C code) this is the callback at the collection's end. Python cannot
# raise from there: it prints "Exception ignored in: <function _xla_gc_callback>" and continues. The time
# in which an interrupt is lost is the whole collection, not only the callback. Before `import jax` the
# same loops lose none.
# Hurt: users whose Ctrl-C does nothing, and programs that end a loop by an exception from a handler of
# SIGTERM, SIGUSR1 or SIGALRM: a preempted program continues instead of saving, a time limit passes
# without effect. (A handler that only sets a flag for the loop to read is safe.)
# Source: jax/_src/lib/__init__.py, _xla_gc_callback, of jax 0.10.2 (the newest for Python 3.11);
# https://github.com/jax-ml/jax/issues/18246 (open);
# https://docs.python.org/3/library/signal.html#execution-of-python-signal-handlers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'END'
import gc
import platform
import random
import signal
import sys
import time

SIGNALS = 100
raised = 0


def interrupt(number, frame):
    global raised
    raised += 1
    raise KeyboardInterrupt


def make_objects():
    return [[] for _ in range(5000)]  # enough new containers for automatic collections


def lost_signals(work):
    """Returns how many of SIGNALS interrupts did not end `work` in a loop, and how many Python ignored."""
    global raised
    raised = caught = 0
    ignored = []
    sys.unraisablehook = lambda report: ignored.append(
        (getattr(report.object, '__name__', ''), report.exc_type)
    )
    delays = random.Random(0)
    for index in range(SIGNALS):
        deadline = time.monotonic() + 60
        try:
            signal.setitimer(signal.ITIMER_REAL, delays.uniform(0.001, 0.01))
            while raised == index and time.monotonic() < deadline:
                work()
        except KeyboardInterrupt:
            caught += 1
    sys.unraisablehook = sys.__unraisablehook__
    by_jax = ignored.count(('_xla_gc_callback', KeyboardInterrupt))
    print(
        f'{work.__name__}: {raised} KeyboardInterrupt raised, {caught} reached the program,'
        f' {by_jax} ignored in _xla_gc_callback'
    )
    return raised - caught, by_jax


signal.signal(signal.SIGALRM, interrupt)
print('Python', platform.python_version(), 'without jax')
before = [lost_signals(work) for work in (gc.collect, make_objects)]

import jax
import jaxlib

print('jax', jax.__version__, 'jaxlib', jaxlib.__version__)
after = [lost_signals(work) for work in (gc.collect, make_objects)]
same = before == [(0, 0), (0, 0)] and all(lost > 0 and by_jax > 0 for lost, by_jax in after)
print(
    'After `import jax`, an interrupt during a garbage collection is lost.'
    if same
    else 'The behavior has changed.'
)
sys.exit(not same)
END

"""Programs that get a signal, without JAX: `python -m signalled SCENE`; see test_signals.py."""

import gc
import hashlib
import os
import signal
import sys
import time

from cls import cli, signals
from cls.distributed.preemption import Preemption


def defaults():
    """Resets the signal handlers of a new process to those of a terminal's shell.

    Tests in the background, or under nohup, inherit some signals as ignored.
    """
    for number in signals.STOPS:
        signal.signal(number, signal.SIG_DFL)


def ready():
    print('ready', flush=True)


def in_c():
    """Waits in C, as XLA's compiler does: Python's signal handlers cannot interrupt it."""
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)


def saves(seconds=0.0):
    """A loop of steps, as in training, with a slow save."""
    with Preemption() as preemption:
        preemption.guard(True)
        ready()
        while not preemption.due():
            time.sleep(0.01)
        time.sleep(seconds)
        print('saved', flush=True)
        preemption.guard(False)
    return signals.exit_code()


def saves_slowly():
    return saves(60)


def has_saved():
    with Preemption() as preemption:
        preemption.guard(True)
        preemption.guard(False)
        ready()
        time.sleep(60)


def ends_slowly():
    """Has saved, but takes a while to end."""
    code = saves()
    time.sleep(60)
    return code


def compiles():
    """Has nothing to save; the main thread is in C, and Python runs no handler."""
    with Preemption():
        ready()
        in_c()


def sets_up():
    ready()
    in_c()


def collects():
    """Gets the signal in a callback of the garbage collector: Python drops its exceptions."""

    def callback(phase, info):
        if phase == 'start':
            ready()
            time.sleep(1)

    gc.callbacks.append(callback)
    while True:
        gc.collect()


def tidies():
    try:
        ready()
        time.sleep(60)
    finally:
        print('tidied', flush=True)


def prints():
    """Prints to a pipe that nobody reads."""
    for _ in range(100):
        print(1000 * 'x', flush=True)
    with open(sys.argv[2], 'w') as file:
        file.write('done')
    return 0


def notebook():
    """Uses the package as a notebook does, without a program of it."""
    try:
        with Preemption() as preemption:
            preemption.guard(True)
            os.kill(os.getpid(), signal.SIGTERM)
            while not preemption.due():
                time.sleep(0.01)
            ready()
            time.sleep(60)
    except KeyboardInterrupt:
        print('KeyboardInterrupt', signal.getsignal(signal.SIGTERM).name, flush=True)
    return 0


JOBS = (saves, saves_slowly, ends_slowly, has_saved, compiles, sets_up)

if __name__ == '__main__':
    scene = globals()[sys.argv[1]]
    if scene is notebook:
        sys.exit(scene())
    signals.begin(['cls.main' if scene in JOBS else 'cls.tools.some', *sys.argv[2:]])
    cli.run(scene)

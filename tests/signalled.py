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
    """In a new process: signals as a terminal's shell leaves them, whatever they are for the tests.

    What runs in the background, or under nohup, ignores some of them.
    """
    for number in signals.STOPS:
        signal.signal(number, signal.SIG_DFL)


def ready():
    print('ready', flush=True)


def in_c():
    """What no handler of Python's interrupts, as XLA's compiler."""
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)


def saves(seconds=0.0):
    """A loop of steps, as of a training; what it saves takes a while."""
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
    """Has saved, and has yet to come to its end."""
    code = saves()
    time.sleep(60)
    return code


def compiles():
    """Nothing to save, and the main thread in C, where Python runs no handler."""
    with Preemption():
        ready()
        in_c()


def sets_up():
    ready()
    in_c()


def collects():
    """Python forgets an exception that is raised in a callback of the garbage collector."""

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
    """Nobody reads what it prints."""
    for _ in range(100):
        print(1000 * 'x', flush=True)
    with open(sys.argv[2], 'w') as file:
        file.write('done')
    return 0


def notebook():
    """As in a notebook: no program of ours."""
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

"""Kills training runs at random moments and resumes them until they end.

  python tests/killed.py FOLDER KILLS AIMED SEED ARGUMENT ...

trains with the arguments of cls.main in FOLDER/whole undisturbed, then in FOLDER/0, FOLDER/1, ...
In each of these folders CHAIN processes are killed, one after another, before one may end. There
are KILLS kills, AIMED of them at the replacement of a file: right before it, or at the next event
after it. The others come from outside, after a random time.

Processes are forked from this one: it has imported everything, but not started JAX, so each fork
starts at once.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from cls.main import main

CHAIN = 4


def started(arguments, before=None):
    """Forks a training process; returns its id."""
    if number := os.fork():
        return number
    code = 99
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if before:
            sys.addaudithook(before)
        code = main(arguments)
    finally:
        os._exit(code)


def ended(number):
    """Waits for a process; returns its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def at_replacement(count, after):
    """Returns an audit hook that kills the process at its `count`-th replacement of a file."""
    seen = 0

    def hook(event, _):
        nonlocal seen
        if event == 'os.kill':  # the hook's own
            return
        due = seen == count and after
        if event == 'os.rename':
            due = due or (seen + 1 == count and not after)
            seen += 1
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def counted(arguments, folder):
    """Trains undisturbed; returns (seconds, number of replaced files)."""
    read, write = os.pipe()

    def hook(event, _):
        if event == 'os.rename':
            os.write(write, b'.')

    began = time.monotonic()
    code = ended(started([*arguments, f'--workdir={folder}'], hook))
    assert code == 0, code
    return time.monotonic() - began, len(os.read(read, 2**16))


def run(folder, kills, aimed, seed, arguments):
    """Trains in all folders; prints a line for each."""
    rng = random.Random(seed)
    counted(arguments, folder / 'warm')  # compiles
    seconds, replaced = counted(arguments, folder / 'whole')
    print(f'{seconds:.1f} s, {replaced} replacements', flush=True)
    left, number = {'aimed': aimed, 'random': kills - aimed}, 0
    while sum(left.values()):
        workdir, told = [*arguments, f'--workdir={folder / str(number)}'], []
        while len(told) < CHAIN and sum(left.values()):
            (kind,) = rng.choices(list(left), list(left.values()))
            if kind == 'aimed':
                count, after = rng.randint(1, replaced // 2), rng.random() < 0.5
                code = ended(started(workdir, at_replacement(count, after)))
            else:
                process = started(workdir)
                time.sleep(rng.uniform(0, seconds))
                os.kill(process, signal.SIGKILL)
                code = ended(process)
            told.append((kind, code))
            if code != -signal.SIGKILL:  # it ended before the kill
                break
            left[kind] -= 1
        print(number, told, ended(started(workdir)), sum(left.values()), flush=True)
        number += 1


if __name__ == '__main__':
    run(Path(sys.argv[1]), *map(int, sys.argv[2:5]), sys.argv[5:])

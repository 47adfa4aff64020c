"""Scenes of several processes, without JAX.

`python tests/linked.py` plays all, and prints output and exit code of each process as JSON.
tests/distributed/test_peers.py has the expected results.
"""

import functools
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
import types
from pathlib import Path

from signalled import defaults

from cls import cli, signals
from cls.distributed import agreement, rendezvous, run_token
from cls.distributed.preemption import Preempted, Preemption
from cls.errors import UserError


def join(index, count, port, timeout=60, token=None):
    agreement.peers = rendezvous.rendezvous(
        ('127.0.0.1', port), index, count, timeout, 'flags', token
    )


def together(index, port):
    join(index, 3, port)
    values = [
        agreement.gather('twice', 2 * index),
        agreement.on_first('first', lambda: {'from': index}),
        agreement.on_all('agree', lambda: index),
    ]
    agreement.print_once(f'said by {index}')
    print(json.dumps(values))
    agreement.peers.end()


def missing(index, port):
    join(index, 4, port, timeout=6)


def unreachable(index, port):
    join(1, 4, port, timeout=2)


def another_count(index, port):
    join(index, 2 + index, port)


def twice(index, port):
    join(min(index, 1), 3, port)


def port_in_use(index, port):
    with socket.create_server(('', port)):
        join(0, 2, port, timeout=1)


def strangers(index, port):
    """A port scanner and a process 1 that dies while waiting come before process 1."""
    over = Path('strangers-have-gone')
    if index == 1:
        for text in (b'GET / HTTP/1.1\r\n\r\n', b'{"index": 1, "count": 3, "host": "gone"}\n'):
            while not over.exists():
                try:
                    with socket.create_connection(('127.0.0.1', port)) as stranger:
                        stranger.sendall(text)
                        time.sleep(0.3)
                    break
                except OSError:
                    time.sleep(0.1)
        over.touch()
    while index == 2 and not over.exists():
        time.sleep(0.1)
    join(index, 3, port)
    print(agreement.gather('here', index))
    agreement.peers.end()


def killed(index, port, victim=2):
    join(index, 3, port)
    agreement.gather('begun', None)
    if index == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    agreement.gather('never', None)


def first_killed(index, port):
    killed(index, port, victim=0)


def mistake(index, port):
    """One process finds a mistake: its data are missing."""
    join(index, 3, port)

    def work():
        if index == 1:
            raise UserError('no data here.')

    agreement.on_all('set-up', work)


def same_mistake(index, port):
    """All processes find the mistake, and do not ask each other."""
    join(index, 3, port)
    raise UserError('config.lr is wrong.')


def stopped_at_once(index, port):
    """Process 0 sends the start and the stop at once, so that they arrive as one packet."""
    if index == 0:
        with socket.create_server(('127.0.0.1', port)) as server:
            meeting = rendezvous._Meeting(2, run_token.create(port))
            while not meeting.lines:
                meeting.hear([server], 1)
            run_token.remove(port)
            line = meeting.lines[1]
            connection, parts = line._socket, []
            line._socket = types.SimpleNamespace(sendall=parts.append)
            line.send({'kind': 'go'})
            line.send({'kind': 'stop', 'text': 'config.lr is wrong.', 'code': 2})
            connection.sendall(b''.join(parts))
            connection.recv(1000)  # returns when the other has gone
    else:
        join(index, 2, port)
        agreement.gather('never', None)


def mistake_meanwhile(index, port):
    """One process finds a mistake while the others wait for something else."""
    join(index, 3, port)
    if index == 2:
        raise UserError('an image cannot be read.')
    agreement.gather('step', None)


def crash(index, port):
    join(index, 3, port)
    if index == 1:
        raise ValueError('a fault in the program')
    agreement.gather('step', None)


def preempted(index, port, victims=(1,), evaluates=False, number=signal.SIGTERM):
    """A loop of collective steps; one process gets the signal, at any moment."""
    join(index, 3, port)
    rng = random.Random(index)
    with Preemption() as preemption:
        preemption.guard(True)
        step = 0
        while not preemption.due():
            if step == 20 and index in victims:
                os.kill(os.getpid(), number)
            time.sleep(rng.random() / 200)
            if evaluates and step == 20:
                try:
                    for batch in range(10**6):
                        preemption.check()
                        agreement.gather(f'batch {batch}', None)
                except Preempted:
                    break
            agreement.gather(f'step {step}', None)  # waits for all, as a sum of gradients does
            step += 1
        print(f'saved {step}, {step >= 20}')
        preemption.guard(False)
    agreement.peers.end()
    sys.exit(signals.exit_code())


def interrupted(index, port):
    """Ctrl-C to all, as srun and a terminal send it; the first signal decides."""
    signals.begin(['cls.main'])
    preempted(index, port, victims=(0, 1, 2), number=signal.SIGINT)


def hung_up(index, port):
    signals.begin(['cls.main'])
    preempted(index, port, victims=(2,), number=signal.SIGHUP)


def interrupted_before_it_listens(index, port):
    """The signal comes while one process still sets up; all end when all listen."""
    signals.begin(['cls.main'])
    join(index, 3, port)
    signals.tell_all(agreement.peers.fail)
    if index == 1:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)
    with Preemption():
        agreement.gather('all listen', index)
        time.sleep(60)  # longer than the threads take to agree, on a busy machine too


def interrupted_evaluation(index, port):
    signals.begin(['cls.main', '--job=evaluate'])
    join(index, 3, port)
    signals.tell_all(agreement.peers.fail)
    agreement.gather('begun', None)
    if index == 2:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)


def interrupted_twice(index, port):
    """One process gets the signal, and a second one while all save."""
    signals.begin(['cls.main'])
    join(index, 3, port)
    with Preemption() as preemption:
        preemption.guard(True)
        agreement.gather('begun', None)
        if index == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)


def all_preempted(index, port):
    preempted(index, port, victims=(0, 1, 2))


def first_preempted(index, port):
    preempted(index, port, victims=(0,))


def preempted_while_evaluating(index, port):
    preempted(index, port, evaluates=True)


def preempted_while_compiling(index, port, slow=2):
    """One process is still compiling; the others wait for it in their first step."""
    join(index, 3, port)
    with Preemption() as preemption:
        if index == slow:
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        preemption.guard(True)
        preemption.due()
        agreement.gather('step', None)


def first_preempted_while_compiling(index, port):
    preempted_while_compiling(index, port, slow=0)


SCENES = {  # scene: number of processes
    together: 3,
    missing: 2,
    unreachable: 1,
    another_count: 2,
    twice: 3,
    port_in_use: 1,
    strangers: 3,
    killed: 3,
    first_killed: 3,
    mistake: 3,
    same_mistake: 3,
    stopped_at_once: 2,
    mistake_meanwhile: 3,
    crash: 3,
    preempted: 3,
    first_preempted: 3,
    all_preempted: 3,
    preempted_while_evaluating: 3,
    preempted_while_compiling: 3,
    first_preempted_while_compiling: 3,
    interrupted: 3,
    hung_up: 3,
    interrupted_before_it_listens: 3,
    interrupted_evaluation: 3,
    interrupted_twice: 3,
}


def begin(scene, count, folder):
    """Forks the processes of a scene."""
    with socket.create_server(('', 0)) as server:
        port = server.getsockname()[1]
    sys.stdout.flush()
    children = []
    for index in range(count):
        child = os.fork()
        if child == 0:
            for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
                path = folder / f'{index}-{number}'
                os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
                stream.reconfigure(line_buffering=True)
            os.chdir(folder)
            defaults()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Python's default
            signal.alarm(120)
            try:
                cli.run(functools.partial(scene, index, port))
            except SystemExit as end:
                sys.stderr.flush()
                os._exit(end.code or 0)
        children.append(child)
    return children


def finish(children, folder):
    """Returns [exit code, stdout, stderr] of each process."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [
        [code, *((folder / f'{index}-{number}').read_text() for number in (1, 2))]
        for index, code in enumerate(codes)
    ]


def play(scenes):
    """Plays scenes, name -> (scene, processes), at the same time; prints their results."""
    with tempfile.TemporaryDirectory() as root:
        played = []
        for name, (scene, count) in scenes.items():
            folder = Path(root) / name
            folder.mkdir()
            played.append((name, begin(scene, count, folder), folder))
        result = {name: finish(children, folder) for name, children, folder in played}
    print(json.dumps(result))


if __name__ == '__main__':
    play({scene.__name__: (scene, count) for scene, count in SCENES.items()})

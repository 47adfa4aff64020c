"""Trains with several processes on this machine, as a run on several hosts does.

  python launch/local.py --processes 4 --devices 2 -- --config configs/resnet.py --workdir runs/four

Each process has its own devices: virtual ones of the CPU, or with --gpu a share of the GPUs. The
first process's output is shown; that of the others goes to files that are named at the start.
SIGTERM, Ctrl-C and SIGHUP are passed on, so that the run is saved, and the exit code is the run's,
0, 130 or 129. A second Ctrl-C kills. When a process fails, the others are stopped, the end of its
output is shown, and its exit code returned. When this program is killed, the run is saved too (on
Linux). Arguments after -- go to cls.main; relative paths are those of the current folder.
PYTHON=python3.12 picks the interpreter (default: this one).
"""

import argparse
import ctypes
import functools
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
ECHO = 0.2  # seconds: `timeout` sends its signal to a process and to its group
EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: 130, signal.SIGHUP: 129}  # of a run that saved
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == 'linux' else None
GRACE = 60  # seconds that processes have to stop in, once one of them failed


class Parser(argparse.ArgumentParser):
    """Parser of the flags that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'error: {message}; --help says what there is\n')


def main() -> int:
    """Starts the processes and waits for them; returns the exit code."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--processes', type=positive, default=2, metavar='N')
    parser.add_argument('--devices', type=positive, default=1, metavar='M', help='of each process')
    parser.add_argument('--gpu', action='store_true', help='GPUs; default: virtual CPU devices')
    parser.add_argument('--logs', type=Path, metavar='DIR', help='default: a new one in /tmp')
    parser.add_argument('--dry_run', action='store_true', help='print the commands, run nothing')
    own, train = split(sys.argv[1:])
    args = parser.parse_args(own)

    address = f'127.0.0.1:{free_port()}'
    environments = [environment(i, args.devices, args.gpu) for i in range(args.processes)]
    commands = [command(address, args.processes, i, train) for i in range(args.processes)]
    if args.dry_run:
        for variables, words in zip(environments, commands, strict=True):
            print(*[f'{k}={shlex.quote(v)}' for k, v in variables.items()], shlex.join(words))
        return 0

    logs = args.logs or Path(tempfile.mkdtemp(prefix='cls-'))
    logs.mkdir(parents=True, exist_ok=True)
    if args.processes > 1:
        print(f'output of the other processes: {logs}/process-*.log', flush=True)
    processes = []
    # The token of cls.distributed.run_token, in the environment: only its user can read that.
    token = {'CLS_TOKEN': os.environ.get('CLS_TOKEN') or secrets.token_hex(16)}
    try:
        asked = listen(processes)
        for index, (variables, words) in enumerate(zip(environments, commands, strict=True)):
            processes.append(start(words, variables | token, log_file(logs, index)))
        return wait(processes, logs, asked)
    finally:
        stop(processes, signal.SIGKILL)


def positive(text: str) -> int:
    """Returns a whole number above zero; argparse shows the error."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number above zero')
    return int(text)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments before and after --."""
    at = arguments.index('--') if '--' in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def free_port() -> int:
    """Returns a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def environment(index: int, devices: int, gpu: bool) -> dict[str, str]:
    """Returns the variables that give a process its devices, and make cls importable."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    if gpu:
        own = range(index * devices, (index + 1) * devices)
        return {'PYTHONPATH': path, 'CUDA_VISIBLE_DEVICES': ','.join(map(str, own))}
    return {'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(devices)}


def command(address: str, count: int, index: int, train: list[str]) -> list[str]:
    """Returns the command of a process."""
    python = os.environ.get('PYTHON', sys.executable)
    place = ['--coordinator', address, '--process_count', str(count), '--process_index', str(index)]
    return [python, '-m', 'cls.main', *place, *train]


def log_file(logs: Path, index: int) -> Path | None:
    """Returns the file of a process's output; None: the output is shown."""
    return logs / f'process-{index}.log' if index else None


def start(words: list[str], variables: dict[str, str], log: Path | None) -> subprocess.Popen:
    """Starts a process that gets Ctrl-C from this program, not from the terminal."""
    with open(log or os.devnull, 'w') as output:
        return subprocess.Popen(
            words,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=output if log else None,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=True,
            preexec_fn=functools.partial(save_without, os.getpid()) if LIBC else None,
        )


def save_without(launcher: int) -> None:
    """Has the system send SIGTERM to this new process when its launcher ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:  # it has ended already
        os._exit(1)


def listen(processes: list[subprocess.Popen]) -> list[int]:
    """Passes SIGTERM, SIGINT and SIGHUP on, and kills at a second Ctrl-C.

    Returns a list that the first of them is put into.
    """
    asked, interrupted = [], []

    def pass_on(number: int, _frame: object) -> None:
        now = time.monotonic()
        if number == signal.SIGINT:
            interrupted.append(now)
        asked.append(number)
        if number == signal.SIGINT and now - interrupted[0] > ECHO:
            asked.append(signal.SIGKILL)
            stop(processes, signal.SIGKILL)
        elif asked.count(number) == 1:
            stop(processes, number)

    for number in EXIT_CODES:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, pass_on)
    return asked


def stop(processes: list[subprocess.Popen], number: int) -> None:
    """Sends a signal to the processes that still run."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def wait(processes: list[subprocess.Popen], logs: Path, asked: list[int]) -> int:
    """Waits until all have ended. When one fails the others are stopped; returns its exit code.

    A run that was asked to stop has not failed; its exit code names the signal.
    """
    failed, deadline = None, float('inf')
    while any(process.poll() is None for process in processes):
        if failed is None and (failed := first_failure(processes, asked)) is not None:
            deadline = time.monotonic() + GRACE
            print(f'process {failed} failed; the others are stopped.', file=sys.stderr, flush=True)
            stop(processes, signal.SIGTERM)
        if time.monotonic() > deadline:
            stop(processes, signal.SIGKILL)
        time.sleep(0.1)
    if failed is None:
        failed = first_failure(processes, asked)
    if failed is not None:
        return report(processes[failed].returncode, failed, logs)
    stopped = any(process.returncode for process in processes)
    return EXIT_CODES[asked[0]] if stopped else 0


def first_failure(processes: list[subprocess.Popen], asked: list[int]) -> int | None:
    """Returns the index of a failed process; of several, of a killed one, as the cause."""
    codes = {i: process.poll() for i, process in enumerate(processes)}
    expected = {None, 0}.union(*({EXIT_CODES.get(number), -number} for number in asked))
    failures = [i for i, code in codes.items() if code not in expected]
    return min(failures, key=lambda i: codes[i], default=None)


def report(code: int, index: int, logs: Path) -> int:
    """Prints the end of a failed process's output; returns its exit code as a shell has it."""
    how = f'was killed by {signal.Signals(-code).name}' if code < 0 else f'ended with code {code}'
    print(f'error: process {index} of the run {how}.', file=sys.stderr)
    log = log_file(logs, index)
    if log:
        print(f'The end of {log}:', *log.read_text().splitlines()[-20:], sep='\n', file=sys.stderr)
    return 128 - code if code < 0 else code


if __name__ == '__main__':
    sys.exit(main())

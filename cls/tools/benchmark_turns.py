"""Processes that take turns: while one is timed, the others are stopped.

Every process answers requests as cls/tools/peers/answering.py describes.
"""

import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cls.errors import UserError

PEERS = Path(__file__).with_name('peers')


@dataclasses.dataclass
class Process:
    """A process that answers requests, stopped between them.

    Attributes:
      pid: the process and its group.
      start: seconds from the creation of the process until it was ready.
      about: its description of itself.
      channel: the running program.
    """

    pid: int
    start: float
    about: dict[str, Any]
    channel: subprocess.Popen[str]

    def timed(self, work: str, skip: int, count: int) -> float:
        """Returns the seconds of `count` units of a work, after `skip` units."""
        os.killpg(self.pid, signal.SIGCONT)
        print(work, skip, count, file=self.channel.stdin, flush=True)
        line = self.channel.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]
        if not line:
            raise UserError(f'{command_of(self.channel.args)} ended at {work!r}.')
        os.killpg(self.pid, signal.SIGSTOP)
        return float(line)

    def peak(self) -> int:
        """Returns the largest resident memory of the process so far, in bytes."""
        status = Path(f'/proc/{self.pid}/status').read_text()
        return 1024 * int(re.findall(r'^VmHWM:\s+(\d+) kB$', status, re.MULTILINE)[0])


def command_of(command: Any) -> str:
    """Returns the part of a command that names the program."""
    return ' '.join(word.strip().splitlines()[0] for word in command[:2])


@contextmanager
def process(command: Sequence[str], **variables: str) -> Iterator[Process]:
    """Starts a program, waits until it is ready, and ends it at the end of the block.

    Args:
      command: the program and its arguments.
      **variables: changes of its environment.

    Raises UserError for a program that does not start.
    """
    with tempfile.TemporaryFile('w+') as said:
        began = time.perf_counter()
        try:
            channel = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=os.environ | variables,
                start_new_session=True,  # so that signals reach its workers too
            )
        except OSError as error:
            raise UserError(f'{command[0]} cannot be run: {error.strerror}.') from error
        try:
            word, _, about = channel.stdout.readline().partition(' ')  # pyright: ignore[reportOptionalMemberAccess]
            seconds = time.perf_counter() - began
            if word != 'ready':
                said.seek(0)
                last = said.read().strip().splitlines()[-1:]
                raise UserError(f'{command_of(command)} ended with: {"".join(last)}')
            os.killpg(channel.pid, signal.SIGSTOP)
            yield Process(channel.pid, seconds, json.loads(about), channel)
        finally:
            os.killpg(channel.pid, signal.SIGKILL)
            channel.communicate()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Units per second of two processes in rounds that alternate.

    Attributes:
      ours, peer: one rate for each round.
    """

    ours: list[float]
    peer: list[float]

    @property
    def ratio(self) -> float:
        """The median over the rounds of ours / peer."""
        return statistics.median(a / b for a, b in zip(self.ours, self.peer, strict=True))

    def record(self) -> dict[str, Any]:
        """Returns the medians, the ratio and the ratio of each round, for JSON."""
        ratios = [round(a / b, 3) for a, b in zip(self.ours, self.peer, strict=True)]
        return {
            'ours': round(statistics.median(self.ours), 3),
            'peer': round(statistics.median(self.peer), 3),
            'ratio': round(self.ratio, 3),
            'rounds': ratios,
        }


def compare(
    ours: Process, peer: Process, work: str, units: int, rounds: int, seconds: float
) -> Comparison:
    """Compares two processes at a work.

    Args:
      ours: our process.
      peer: the process of the other library.
      work: the name of the work.
      units: images in a unit of work.
      rounds: the number of rounds.
      seconds: the approximate time of a process in a round.
    """
    rates: dict[str, list[float]] = {'ours': [], 'peer': []}
    sides = {'ours': ours, 'peer': peer}
    counts = {name: repetitions(side, work, seconds) for name, side in sides.items()}
    for _ in range(rounds):
        for name, side in sides.items():
            rates[name].append(counts[name] * units / side.timed(work, 1, counts[name]))
    return Comparison(**rates)


def repetitions(side: Process, work: str, seconds: float) -> int:
    """Returns the units of a work that take about as long; the first unit is not timed."""
    return max(1, round(seconds / side.timed(work, 1, 1)))


def summary(ratios: Mapping[str, float]) -> dict[str, Any]:
    """Returns the geometric mean of ratios by name, and the smallest and its name."""
    least = min(ratios, key=lambda name: ratios[name])
    mean = statistics.geometric_mean(ratios.values())
    return {'geometric_mean': round(mean, 3), 'minimum': round(ratios[least], 3), 'of': least}

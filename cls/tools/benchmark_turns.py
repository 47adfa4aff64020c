"""Processes that take turns: while one is timed, the others are stopped.

Every process answers requests as cls/tools/peers/answering.py describes.
"""

import contextlib
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
from pathlib import Path
from typing import IO, Any

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
      said: its standard error.
    """

    pid: int
    start: float
    about: dict[str, Any]
    channel: subprocess.Popen[str]
    said: IO[str]

    def timed(self, work: str, skip: int, count: int) -> float:
        """Returns the seconds of `count` units of a work, after `skip` units."""
        line = ''
        # If it has ended, as for want of memory, there is no line.
        with contextlib.suppress(BrokenPipeError, ProcessLookupError):
            os.killpg(self.pid, signal.SIGCONT)
            print(work, skip, count, file=self.channel.stdin, flush=True)
            line = self.channel.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]
        if not line:
            raise failure(self.channel.args, self.said)
        os.killpg(self.pid, signal.SIGSTOP)
        return float(line)

    def peak(self) -> int:
        """Returns the largest resident memory of the process until now, in bytes."""
        return self._memory('VmHWM')

    def forget_peak(self) -> None:
        """Lets `peak` count from now on, where the system permits it."""
        with contextlib.suppress(OSError):
            Path(f'/proc/{self.pid}/clear_refs').write_text('5')

    def resident(self) -> int:
        """Returns the resident memory of the process, in bytes."""
        return self._memory('VmRSS')

    def _memory(self, field: str) -> int:
        status = Path(f'/proc/{self.pid}/status').read_text()
        return 1024 * int(re.findall(rf'^{field}:\s+(\d+) kB$', status, re.MULTILINE)[0])


def failure(command: Any, said: IO[str]) -> UserError:
    """Returns the error for a program that ended, with the last line that it printed."""
    said.seek(0)
    last = said.read().strip().splitlines()[-1:]
    program = ' '.join(word.strip().splitlines()[0] for word in command[:2])
    return UserError(f'{program} ended with: {"".join(last)}')


@contextlib.contextmanager
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
                raise failure(command, said)
            os.killpg(channel.pid, signal.SIGSTOP)
            yield Process(channel.pid, seconds, json.loads(about), channel, said)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(channel.pid, signal.SIGKILL)
            channel.communicate()


def take_turns(
    sides: Mapping[str, tuple[Process, str]], units: int, rounds: int, seconds: float
) -> tuple[dict[str, list[float]], float]:
    """Returns the units per second of each side in each round, and the work of other programs.

    The second is the part of the processors' time that other programs used meanwhile.

    Args:
      sides: name -> (process, work).
      units: images in a unit of work.
      rounds: the number of rounds.
      seconds: the approximate time of a side in a round.
    """
    turns = {}
    for name, (side, work) in sides.items():
        count = repetitions(side, work, seconds)
        turns[name] = Turn(side, work, count, 1, count * units)
    return in_turns(turns, rounds)


@dataclasses.dataclass(frozen=True)
class Turn:
    """The work of a process in each round.

    Attributes:
      side: the process.
      work: the name of the work.
      count: units of it that are timed.
      skip: units before them.
      units: images, or what else is counted, in the timed units.
    """

    side: Process
    work: str
    count: int
    skip: int
    units: int


def in_turns(turns: Mapping[str, Turn], rounds: int) -> tuple[dict[str, list[float]], float]:
    """Returns as `take_turns`, for works of a given length."""
    rates: dict[str, list[float]] = {name: [] for name in turns}
    groups = {turn.side.pid for turn in turns.values()} | {os.getpgid(0)}
    began, busy = time.perf_counter(), _others(groups)
    for _ in range(rounds):
        for name, turn in turns.items():
            rates[name].append(turn.units / turn.side.timed(turn.work, turn.skip, turn.count))
    capacity = len(os.sched_getaffinity(0)) * (time.perf_counter() - began)
    return rates, round(max(0.0, _others(groups) - busy) / capacity, 3)


def _others(groups: set[int]) -> float:
    """Returns the seconds that the usable cores have worked for other process groups so far."""
    ticks, total = os.sysconf('SC_CLK_TCK'), 0
    cores = {f'cpu{number}' for number in os.sched_getaffinity(0)}
    for line in Path('/proc/stat').read_text().splitlines():
        name, *numbers = line.split()
        if name in cores:
            user, nice, system, _, _, *rest = map(int, numbers[:8])
            total += user + nice + system + sum(rest)
    return total / ticks - used_by(groups)


def used_by(groups: set[int]) -> float:
    """Returns the seconds of the processes of groups, and of their children that have ended."""
    ticks, own = os.sysconf('SC_CLK_TCK'), 0
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = stat.read_text().rpartition(')')[2].split()
            if int(fields[2]) in groups:
                own += sum(map(int, fields[11:15]))
    return own / ticks


def disturbance(others: float) -> str:
    """Returns a note on other programs that used more than a twentieth of the processors."""
    return f' (other programs used {100 * others:.0f} % of the cores)' if others > 0.05 else ''


def compared(ours: Sequence[float], peer: Sequence[float]) -> dict[str, Any]:
    """Returns the medians of rates, the median of their ratios, and all ratios, for JSON.

    `best` is the ratio of the best rates, with less of the work of other programs in it.
    """
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return {
        'ours': round(statistics.median(ours), 3),
        'peer': round(statistics.median(peer), 3),
        'ratio': round(statistics.median(ratios), 3),
        'best': round(max(ours) / max(peer), 3),
        'rounds': [round(ratio, 3) for ratio in ratios],
    }


def repetitions(side: Process, work: str, seconds: float) -> int:
    """Returns the units of a work that take about as long; the first unit is not timed."""
    return max(1, round(seconds / side.timed(work, 1, 1)))


def summary(ratios: Mapping[str, float]) -> dict[str, Any]:
    """Returns the geometric mean of ratios by name, and the smallest and its name."""
    least = min(ratios, key=lambda name: ratios[name])
    mean = statistics.geometric_mean(ratios.values())
    return {'geometric_mean': round(mean, 3), 'minimum': round(ratios[least], 3), 'of': least}

"""Lines between the processes of a run: who is there, who has gone, what all of them agree on.

Every process keeps one TCP connection to the first. JAX has a service of its own for this, which
starts after these lines are up and does the rest. What it does not do is say who is missing, and
when a process fails it aborts the others, a minute later and from C++. A connection that closes
tells at once; one to a host that vanished is found dead by TCP after 90 seconds.

Messages are JSON, one a line. Nothing here knows of JAX.
"""

import contextlib
import json
import os
import queue
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from cls.errors import UserError

Message = dict[str, Any]

_PATIENCE = 10.0  # seconds for the others to end before process 0, where the service of JAX is
_RETRY = 0.5  # seconds between attempts to reach the first process
_REMIND = 30.0  # seconds after which it is said who is waited for


class Line:
    """One connection, read by one thread and written by any."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option, value in (('TCP_KEEPIDLE', 30), ('TCP_KEEPINTVL', 10), ('TCP_KEEPCNT', 6)):
            if hasattr(socket, option):  # Linux; elsewhere the system's own, slower
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        connection.settimeout(None)
        self._socket, self._rest, self._lock = connection, b'', threading.Lock()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Sends; to one who has gone, nothing: reading says so."""
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b'\n')

    def receive(self, timeout: float | None) -> list[Message]:
        """Returns what has come, at least one message unless the time is over.

        Raises EOFError when the other side has gone or is not one of ours.
        """
        if not _readable([self], timeout):
            return []
        try:
            part = self._socket.recv(2**16)
        except OSError as error:
            raise EOFError from error
        if not part:
            raise EOFError
        *lines, self._rest = (self._rest + part).split(b'\n')
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError as error:
            raise EOFError from error
        if len(self._rest) > 2**24 or not all(isinstance(m, dict) for m in messages):
            raise EOFError
        return messages

    def close(self) -> None:
        self._socket.close()


def _readable(these: Iterable[Any], timeout: float | None) -> set[int]:
    """Returns the file numbers of those that something has come to."""
    poll = select.poll()  # select() takes no numbers above 1023
    for one in these:
        poll.register(one.fileno(), select.POLLIN)
    return {number for number, _ in poll.poll(None if timeout is None else 1000 * timeout)}


# ------------------------------------------------------------------------------------------------
# Meeting
# ------------------------------------------------------------------------------------------------


def meet(address: tuple[str, int], index: int, count: int, timeout: float, found: str) -> 'Links':
    """Returns the lines between `count` processes once all of them are there.

    Args:
      address: host and port of process 0.
      index: of this process.
      count: of the processes.
      timeout: seconds.
      found: how the processes were found, for messages.

    Raises:
      UserError: after the time-out, with those who are missing; for two of the same index, another
        count, a port that is in use.
    """
    hello = {'index': index, 'count': count, 'host': socket.gethostname()}
    if index == 0:
        return Links(0, count, _receive_all(address, count, timeout, found))
    line, early = _reach(address, hello, timeout, found)
    return Links(index, count, {0: line}, early)


def _reach(
    address: tuple[str, int], hello: Message, timeout: float, found: str
) -> tuple[Line, list[Message]]:
    """Returns the line to process 0, and what that had to say right after it let us go."""
    began, problem = time.monotonic(), 'no answer'
    while (left := began + timeout - time.monotonic()) > 0:
        try:
            line = Line(socket.create_connection(address, min(left, 10)))
        except OSError as error:  # also names that are not known yet
            problem = str(error)
            time.sleep(min(_RETRY, left))
            continue
        line.send(hello)
        try:
            # The first process keeps the time from here, and says who is missing.
            match line.receive(left + 10):
                case [{'kind': 'refused', 'text': text}, *_]:
                    raise UserError(text)
                case [{'kind': 'go'}, *early]:
                    return line, early
        except EOFError:
            problem = 'it hung up'  # a run that is just ending, or no run at all
        line.close()
        time.sleep(_RETRY)
    raise UserError(
        f'process {hello["index"]} of {hello["count"]} (by {found}) could not reach process 0 at '
        f'{address[0]}:{address[1]} in {timeout:.0f} s ({problem}): expected the same command on '
        'every host, and the port open between them; --coordinator HOST:PORT names another, '
        '--join_timeout SECONDS waits longer.'
    )


def _listen(port: int, count: int, deadline: float) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    deadline = min(deadline, time.monotonic() + 20)  # one that is just ending may still have it
    while True:
        try:
            return socket.create_server(
                ('', port), family=family, backlog=count, dualstack_ipv6=both
            )
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f'process 0 cannot listen at port {port} ({error.strerror}), another run may: '
                    'end it, or give every process another --coordinator HOST:PORT.'
                ) from error
        time.sleep(_RETRY)


def _receive_all(
    address: tuple[str, int], count: int, timeout: float, found: str
) -> dict[int, Line]:
    """Returns a line to every other process; without all of them none gets one."""
    deadline, remind = time.monotonic() + timeout, time.monotonic() + _REMIND
    lines: dict[int, Line] = {}
    hosts = {0: socket.gethostname()}
    problem = ''
    with _listen(address[1], count, deadline) as listener:
        while len(lines) < count - 1 and not problem:
            if time.monotonic() > remind:
                remind = time.monotonic() + 2 * _REMIND
                print(f'waiting for {_missing(lines, count)} (by {found})', file=sys.stderr)
            if time.monotonic() > deadline:
                problem = (
                    f'{_missing(lines, count)} (by {found}) did not come within {timeout:.0f} s: '
                    'expected the same command on every host '
                    '(a TPU pod: gcloud ... tpus tpu-vm ssh NAME --worker=all --command=...); '
                    '--join_timeout SECONDS waits longer.'
                )
                break
            for index in [i for i, line in lines.items() if _gone(line)]:
                lines.pop(index).close()
            if _readable([listener], 0.5):
                problem = _welcome(Line(listener.accept()[0]), lines, hosts, count)
    for line in lines.values():
        line.send({'kind': 'refused', 'text': problem} if problem else {'kind': 'go'})
    if problem:
        raise UserError(problem)
    return lines


def _welcome(line: Line, lines: dict[int, Line], hosts: dict[int, str], count: int) -> str:
    """Adds who calls to the lines; returns what is wrong with it, '' if nothing is."""
    try:
        (hello,) = line.receive(5)
        index, host = int(hello['index']), str(hello['host'])
        others = int(hello['count'])
    except (EOFError, ValueError, KeyError, TypeError):
        line.close()  # not one of ours
        return ''
    problem = ''
    if others != count:
        problem = f'process {index} on {host} was told of {others} processes, process 0 of {count}'
    elif not 0 < index < count or (index in lines and not _gone(lines[index])):
        earlier = hosts.get(index, 'none')
        problem = f'two processes say that they are number {index}, on {earlier} and on {host}'
    if problem:
        problem += ': start each with the same --process_count and a --process_index of its own.'
        line.send({'kind': 'refused', 'text': problem})
        return problem
    lines[index], hosts[index] = line, host
    return ''


def _gone(line: Line) -> bool:
    try:
        line.receive(0)
    except EOFError:
        return True
    return False


def _missing(lines: dict[int, Line], count: int) -> str:
    missing = [str(i) for i in range(1, count) if i not in lines]
    names = ', '.join(missing[:8]) + (', ...' if missing[8:] else '')
    return f'process{"es" if missing[1:] else ""} {names} of {count}'


# ------------------------------------------------------------------------------------------------
# Afterwards
# ------------------------------------------------------------------------------------------------


class Links:
    """The lines of one process, to process 0 or from there to all others.

    A thread reads them. It ends the process when another has failed, whatever the main thread is
    waiting for.
    """

    def __init__(
        self, index: int, count: int, lines: dict[int, Line], early: Iterable[Message] = ()
    ) -> None:
        self.index, self.count = index, count
        self._lines = lines
        self._values = {i: queue.SimpleQueue() for i in lines}
        self._ended: set[int] = set()  # said that they would go
        self._gone = threading.Condition()
        self._present = set(lines)
        self._ending = threading.Lock()
        self._hear: Callable[[int, Message], None] | None = None
        self._early: list[tuple[int, Message]] = []  # signals that nobody listened to yet
        self._listening = threading.Lock()
        threading.Thread(target=self._read, args=(early,), daemon=True, name='links').start()

    def gather(self, name: str, value: Any) -> list[Any]:
        """Returns the values of all processes, once all have called this with the same name.

        Args:
          name: of the place in the program.
          value: anything that JSON has.
        """
        mine = {'kind': 'value', 'name': name, 'value': value}
        if self.index:
            self._lines[0].send(mine)
            return self._values[0].get()['value']
        messages = [mine, *(self._values[i].get() for i in range(1, self.count))]
        names = {message['name'] for message in messages}
        if len(names) > 1:
            raise AssertionError(f'the processes are at different places: {sorted(names)}')
        values = [message['value'] for message in messages]
        for line in self._lines.values():
            line.send({'kind': 'value', 'name': name, 'value': values})
        return values

    def listen(self, hear: Callable[[int, Message], None]) -> None:
        """From now on gives signals, and those that came before, to hear(sender, message)."""
        with self._listening:
            self._hear = hear
            for sender, message in self._early:
                hear(sender, message)
            self._early.clear()

    def signal(self, message: Message) -> None:
        """Sends a message to who listens at process 0, or from there at all others."""
        for line in self._lines.values():
            line.send({'kind': 'signal', 'message': message})

    def fail(self, text: str, code: int) -> NoReturn:
        """Ends all processes with an exit code; process 0 says why."""
        if self.index:
            self._lines[0].send({'kind': 'failed', 'text': text, 'code': code})
            time.sleep(2 * _PATIENCE)  # it tells us to stop; the thread does
        self._end(text, code)

    def end(self) -> None:
        """Says that this process is done; what others do is nothing to it any more."""
        for line in self._lines.values():
            line.send({'kind': 'end'})

    def leave(self, text: str) -> None:
        """Ends this process with code 0, shortly, as all others do; process 0 says why."""
        self.end()
        text = text if self.index == 0 else ''
        threading.Thread(target=self._end, args=(text, 0, False)).start()

    def _read(self, early: Iterable[Message]) -> None:
        for message in early:
            self._take(0, message)
        while self._present:
            ready = _readable([self._lines[i] for i in self._present], None)
            for i in [i for i in self._present if self._lines[i].fileno() in ready]:
                try:
                    for message in self._lines[i].receive(0):
                        self._take(i, message)
                except EOFError:
                    self._lost(i)

    def _take(self, i: int, message: Message) -> None:
        kind = message['kind']
        if kind == 'value':
            self._values[i].put(message)
        elif kind == 'signal':
            with self._listening:
                if self._hear:
                    self._hear(i, message['message'])
                else:
                    self._early.append((i, message['message']))
        elif kind == 'end':
            self._ended.add(i)
        elif kind == 'stop':
            self._end(message['text'], message['code'])
        elif kind == 'failed':
            text = f'process {i}: {message["text"]}'
            threading.Thread(target=self._fail_for, args=(text, message['code'])).start()

    def _fail_for(self, text: str, code: int) -> None:
        # A mistake in a config is found by every process: the first had better say it itself.
        time.sleep(3)
        self._end(text, code)

    def _lost(self, i: int) -> None:
        with self._gone:
            self._present.discard(i)
            self._gone.notify_all()
        if i not in self._ended and not self._ending.locked():
            text = (
                f'process {i} of {self.count} has gone without a word (killed, out of memory, or '
                'its host is lost); all stop. The same command continues from the last checkpoint.'
            )
            threading.Thread(target=self._end, args=(text, 1, True, True)).start()

    def _end(self, text: str, code: int, tell: bool = True, everywhere: bool = False) -> NoReturn:
        """Ends the process from whichever thread, the first process after the others."""
        if not self._ending.acquire(blocking=False):
            time.sleep(60)  # another thread is at it
        if self.index == 0 and tell:
            message = {'kind': 'stop', 'text': text if everywhere else '', 'code': code}
            for line in self._lines.values():
                line.send(message)
        if text:
            stream = sys.stderr if code else sys.stdout
            print(f'error: {text}' if code else text, file=stream, flush=True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if self.index == 0:
            with self._gone:
                self._gone.wait_for(lambda: not self._present, _PATIENCE)
        os._exit(code)

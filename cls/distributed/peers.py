"""Connections between the processes of a run: shared values, signals, failures and ends.

Every process keeps one TCP connection to process 0, made by `cls.distributed.rendezvous`. JAX's own
coordination service starts after these connections. It does not name a missing process, and when a
process fails it aborts the others from C++, a minute later. Here the end of a connection is noticed
immediately, and a vanished host by TCP keepalive after 90 seconds.

A message is a line of JSON after an HMAC of its text and its position in the conversation. Without
the key nobody can add, change, repeat or drop a message. This module does not use JAX.
"""

import contextlib
import functools
import hmac
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

Message = dict[str, Any]

_PATIENCE = 10.0  # seconds for the others to end before process 0, the server of JAX's service
_STALLED = 60.0  # seconds until a process that does not read counts as gone
_LONGEST = 2**24  # the most bytes of a line
_SIGNALS = 1000  # the most signals kept until `listen` is called


class Violation(Exception):
    """A message that violates the protocol."""


def proof(key: bytes, *parts: bytes) -> bytes:
    """Returns the HMAC-SHA256 of the parts and their lengths, in hexadecimal digits."""
    code = hmac.new(key, digestmod='sha256')
    for part in parts:
        code.update(len(part).to_bytes(8, 'big') + part)
    return code.hexdigest().encode()


def parsed(text: bytes) -> Message:
    """Returns the JSON object in a text. Raises Violation for any other text."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Violation(f'no JSON: {type(error).__name__}') from error
    if not isinstance(message, dict):
        raise Violation(f'no JSON object: {type(message).__name__}')
    return message


class Connection:
    """An authenticated connection, read by one thread and written by any.

    Args:
      connection: the socket.
      key: the key of this connection, known to both ends.
      first: whether this end belongs to process 0.
      rest: bytes that were already read.
    """

    def __init__(
        self, connection: socket.socket, key: bytes, first: bool, rest: bytes = b''
    ) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option, value in (('TCP_KEEPIDLE', 30), ('TCP_KEEPINTVL', 10), ('TCP_KEEPCNT', 6)):
            if hasattr(socket, option):  # on Linux; other systems keep their slower defaults
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        connection.settimeout(_STALLED)
        self._socket, self._rest, self._lock = connection, rest, threading.Lock()
        self._key = key
        self._sides = (b'first', b'other') if first else (b'other', b'first')  # ours, theirs
        self._sent = self._received = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Sends a message. If the other side is gone, the next read raises the error."""
        text = json.dumps(message).encode()
        with self._lock:
            line = self._proof(self._sides[0], self._sent, text) + b' ' + text + b'\n'
            self._sent += 1
            try:
                self._socket.sendall(line)
            except OSError:
                with contextlib.suppress(OSError):  # half a line may have gone out
                    self._socket.shutdown(socket.SHUT_RDWR)

    def receive(self, timeout: float | None) -> list[Message]:
        """Returns the messages that have arrived: at least one, or none after the timeout.

        Raises:
          EOFError: the other side is gone.
          Violation: the other side does not follow the protocol, or does not know the key.
        """
        if b'\n' not in self._rest:
            if not readable([self], timeout):
                return []
            try:
                part = self._socket.recv(2**16)
            except OSError as error:
                raise EOFError from error
            if not part:
                raise EOFError
            self._rest += part
        *lines, self._rest = self._rest.split(b'\n')
        if len(self._rest) > _LONGEST:
            raise Violation(f'a line of more than {_LONGEST} bytes')
        return [self._opened(line) for line in lines]

    def close(self) -> None:
        self._socket.close()

    def _opened(self, line: bytes) -> Message:
        code, _, text = line.partition(b' ')
        if not hmac.compare_digest(code, self._proof(self._sides[1], self._received, text)):
            raise Violation('a line without its proof')
        self._received += 1
        return parsed(text)

    def _proof(self, side: bytes, number: int, text: bytes) -> bytes:
        return proof(self._key, side, str(number).encode(), text)


def readable(these: Iterable[Any], timeout: float | None) -> set[int]:
    """Returns the file descriptors that can be read."""
    poll = select.poll()  # select() takes no descriptors above 1023
    for one in these:
        poll.register(one.fileno(), select.POLLIN)
    return {number for number, _ in poll.poll(None if timeout is None else 1000 * timeout)}


# ------------------------------------------------------------------------------------------------
# Messages
# ------------------------------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_code(value: Any) -> bool:
    return type(value) is int and 0 < value < 256  # a regular end, 0, needs no message


def _is_signal(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get('what'))


_KINDS = {  # fields, and a check of each
    'value': {'name': _is_text, 'value': lambda _: True},
    'signal': {'message': _is_signal},
    'end': {},
    'failed': {'text': _is_text, 'code': _is_code},
    'stop': {'text': _is_text, 'code': _is_code},
}


def check(message: Message, sender: int) -> None:
    """Raises Violation for a message that process `sender` must not send."""
    kind = message.get('kind')
    if not _is_text(kind) or kind not in _KINDS or kind == ('stop' if sender else 'failed'):
        raise Violation(f'kind {str(kind)[:40]!r}')
    fields = _KINDS[kind]
    if message.keys() != {'kind', *fields}:
        raise Violation(f'{kind!r} with the fields {sorted(message)}'[:200])
    for name, is_right in fields.items():
        if not is_right(message[name]):
            raise Violation(f'{kind!r} whose {name} is {message[name]!r}'[:200])


# ------------------------------------------------------------------------------------------------
# All connections of a process
# ------------------------------------------------------------------------------------------------


class Peers:
    """The connections of one process: to process 0, or from process 0 to all others.

    A thread reads them. It ends this process when another process fails or violates the protocol,
    even if the main thread is waiting.
    """

    def __init__(
        self, index: int, count: int, lines: dict[int, Connection], early: Iterable[Message] = ()
    ) -> None:
        self.index, self.count = index, count
        self._lines = lines
        self._values = {i: queue.SimpleQueue() for i in lines}
        self._ended: set[int] = set()  # processes that announced their end
        self._gone = threading.Condition()
        self._present = set(lines)
        self._failing: set[int] = set()  # processes that announced a failure
        self._ending = threading.Lock()
        self._leaving = False
        self._hear: Callable[[int, Message], None] | None = None
        self._early: list[tuple[int, Message]] = []  # signals before `listen`
        self._listening = threading.Lock()
        threading.Thread(target=self._read, args=(early,), daemon=True, name='peers').start()

    def gather(self, name: str, value: Any) -> list[Any]:
        """Returns the values of all processes; waits until all have called it with the same name.

        Args:
          name: identifies the call in the program.
          value: any JSON value.
        """
        message = {'kind': 'value', 'name': name, 'value': value}
        if self.index:
            self._lines[0].send(message)
            values = self._value(0, name)
            if not isinstance(values, list) or len(values) != self.count:
                self.fail(f'process 0 answers {name!r} with no list of {self.count} values.', 1)
            return values
        values = [value, *(self._value(i, name) for i in range(1, self.count))]
        for line in self._lines.values():
            line.send({'kind': 'value', 'name': name, 'value': values})
        return values

    def _value(self, i: int, name: str) -> Any:
        message = self._values[i].get()
        if message is None:
            self._end(
                f'process {i} of {self.count} has ended, but process {self.index} waits for it '
                f'({name}); all stop.',
                1,
                everywhere=True,
            )
        if message['name'] != name:
            names = f'{name!r} here, {message["name"]!r} on process {i}'[:200]
            raise AssertionError(f'the processes are at different places: {names}')
        return message['value']

    def listen(self, hear: Callable[[int, Message], None]) -> None:
        """Calls hear(sender, message) for each signal, including those that arrived before."""
        with self._listening:
            self._hear = hear
            for sender, message in self._early:
                hear(sender, message)
            self._early.clear()

    def signal(self, message: Message) -> None:
        """Sends a signal to process 0, or from process 0 to all others."""
        for line in self._lines.values():
            line.send({'kind': 'signal', 'message': message})

    def fail(self, text: str, code: int) -> NoReturn:
        """Ends all processes with an exit code; process 0 prints the reason."""
        if self.index:
            self._lines[0].send({'kind': 'failed', 'text': text, 'code': code})
            time.sleep(2 * _PATIENCE)  # process 0 replies 'stop', and the thread ends this process
        self._end(text, code)

    def end(self) -> None:
        """Announces the end of this process; later messages of others are ignored."""
        for line in self._lines.values():
            line.send({'kind': 'end'})

    def leave(self, code: int) -> None:
        """Ends this process with an exit code, silently, when all others do the same."""
        self._leaving = True
        self.end()
        threading.Thread(target=self._end, args=('', code, False)).start()

    def _read(self, early: Iterable[Message]) -> None:
        try:
            self._take_all(0, lambda: early)
            while self._present:
                ready = readable([self._lines[i] for i in self._present], None)
                for i in [i for i in self._present if self._lines[i].fileno() in ready]:
                    self._take_all(i, functools.partial(self._lines[i].receive, 0))
        except BaseException as error:  # without it all processes would wait for this thread
            self._stop_all(f'process {self.index} cannot hear the others: {error!r}'[:500])

    def _take_all(self, i: int, receive: Callable[[], Iterable[Message]]) -> None:
        try:
            for message in receive():
                check(message, i)
                self._take(i, message)
        except EOFError:
            self._lost(i)
        except Exception as error:
            what = str(error) if isinstance(error, Violation) else repr(error)
            self._forget(i)
            self._stop_all(
                f'process {i} of {self.count} sent what no process of a run sends ({what[:300]}): '
                'expected the same version of the program on all; all stop. The same command '
                'continues from the last checkpoint.'
            )

    def _take(self, i: int, message: Message) -> None:
        kind = message['kind']
        if kind == 'value':
            if self._values[i].qsize():  # each process waits for an answer before its next value
                raise Violation('a value before the last one was answered')
            self._values[i].put(message)
        elif kind == 'signal':
            with self._listening:
                if self._hear:
                    self._hear(i, message['message'])
                elif len(self._early) < _SIGNALS:
                    self._early.append((i, message['message']))
                else:
                    raise Violation(f'more than {_SIGNALS} signals')
        elif kind == 'end':
            self._ended.add(i)
        elif kind == 'stop':
            self._end(message['text'], message['code'])
        elif i not in self._failing:
            self._failing.add(i)
            text = f'process {i}: {message["text"]}'
            threading.Thread(target=self._fail_for, args=(text, message['code'])).start()

    def _fail_for(self, text: str, code: int) -> None:
        # Every process finds a mistake in a config: process 0 gets time to report it itself.
        time.sleep(3)
        self._end(text, code)

    def _lost(self, i: int) -> None:
        self._forget(i)
        if i in self._ended:
            if not self._leaving:
                self._values[i].put(None)  # for a waiting main thread
        elif not self._ending.locked():
            self._stop_all(
                f'process {i} of {self.count} disappeared (killed, out of memory, or its host was '
                'lost); all stop. The same command continues from the last checkpoint.'
            )

    def _forget(self, i: int) -> None:
        with self._gone:
            self._present.discard(i)
            self._gone.notify_all()

    def _stop_all(self, text: str) -> None:
        # In another thread: `_end` waits until this thread has noticed the end of the others.
        threading.Thread(target=self._end, args=(text, 1, True, True)).start()

    def _end(self, text: str, code: int, tell: bool = True, everywhere: bool = False) -> NoReturn:
        """Ends the process from any thread; process 0 ends after the others."""
        if not self._ending.acquire(blocking=False):
            time.sleep(60)  # another thread is ending the process
        try:
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
        finally:
            os._exit(code)

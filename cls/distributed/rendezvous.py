"""Rendezvous of the processes of a run at a port of process 0, with mutual authentication.

Both sides prove that they know the token (`cls.distributed.run_token`) without sending it:

  process 0   cls 1 NONCE
  the other   NONCE PROOF HELLO     a proof of both nonces and of the hello; the hello has the index
  process 0   PROOF                 of the same, or `denied`

A proof is an HMAC, so a recorded proof is useless with the next nonce. Every later line has a proof
as well, with a key of this connection only (`cls.distributed.peers.Connection`). Before its proof a
caller may send 512 bytes within five seconds, and blocks no other caller. One loop reads all
callers, and if there are too many, it closes the oldest connection of the host with the most. The
port is closed when all processes are present.
"""

import contextlib
import dataclasses
import hmac
import json
import logging
import secrets
import socket
import time
from collections import Counter

from cls.distributed import listening, run_token
from cls.distributed.peers import Connection, Message, Peers, Violation, parsed, proof, readable
from cls.errors import UserError

log = logging.getLogger(__name__)

_GREETING = b'cls 1 '
_NONCE = 32  # hexadecimal digits
_HELLO = 512  # the most bytes of a caller before its proof
_SHAKE = 5.0  # the most seconds until a caller's proof
_CALLERS = 128  # the most callers that are read at the same time
_RETRY = 0.5  # seconds between attempts to reach process 0
_REMIND = 30.0  # seconds until the missing processes are logged
_STRANGE = 10.0  # seconds until another program at the port is logged


class _Stranger(Exception):
    """A program other than the expected process answers."""


def rendezvous(
    address: tuple[str, int],
    index: int,
    count: int,
    timeout: float,
    found: str,
    token: str | None = None,
) -> Peers:
    """Returns the connections between `count` processes; waits until all are present.

    Args:
      address: host and port of process 0.
      index: index of this process.
      count: number of processes.
      timeout: seconds to wait.
      found: the source of the list of processes, for messages.
      token: the shared token; None: process 0 makes one for the processes of this machine.

    Raises:
      UserError: missing processes after the timeout, two processes with the same index, different
        counts, a port in use, or a token file that is not private.
    """
    if index == 0:
        return Peers(0, count, _receive_all(address, count, timeout, found, token))
    hello = {'index': index, 'count': count, 'host': socket.gethostname()[:100]}
    line, early = _reach(address, hello, timeout, found, token)
    return Peers(index, count, {0: line}, early)


# ------------------------------------------------------------------------------------------------
# Process 0
# ------------------------------------------------------------------------------------------------


def _receive_all(
    address: tuple[str, int], count: int, timeout: float, found: str, token: str | None
) -> dict[int, Connection]:
    """Returns a connection to every other process; raises if any is missing."""
    deadline, remind = time.monotonic() + timeout, time.monotonic() + _REMIND
    with contextlib.ExitStack() as stack:
        listeners = listening.listen(stack, address, deadline)
        if token is None:
            # Only after this process has the port: a run that owns the port keeps its token file.
            token = run_token.create(address[1])
            stack.callback(run_token.remove, address[1])
        meeting = stack.enter_context(contextlib.closing(_Meeting(count, token)))
        while len(meeting.lines) < count - 1 and not meeting.problem:
            if time.monotonic() > remind:
                remind = time.monotonic() + 2 * _REMIND
                log.warning('waiting for %s (by %s)', meeting.missing(), found)
            if time.monotonic() > deadline:
                meeting.problem = (
                    f'{meeting.missing()} (by {found}) did not come within {timeout:.0f} s: '
                    'expected the same command on every host '
                    '(a TPU pod: gcloud ... tpus tpu-vm ssh NAME --worker=all --command=...); '
                    f'{meeting.denials()}--join_timeout SECONDS waits longer.'
                )
                break
            meeting.hear(listeners, 0.5)
    problem = meeting.problem
    for line in meeting.lines.values():
        line.send({'kind': 'refused', 'text': problem} if problem else {'kind': 'go'})
    if problem:
        raise UserError(problem)
    return meeting.lines


@dataclasses.dataclass
class _Caller:
    """A connection that is not authenticated yet."""

    connection: socket.socket
    host: str
    nonce: bytes
    deadline: float
    received: bytes = b''


class _Meeting:
    """The callers of process 0, authenticated or not."""

    def __init__(self, count: int, token: str) -> None:
        self.lines: dict[int, Connection] = {}
        self.problem = ''  # ends the rendezvous if not empty
        self._count, self._token = count, token.encode()
        self._hosts = {0: socket.gethostname()}
        self._callers: dict[int, _Caller] = {}  # by file number, the oldest first
        self._denied: Counter[str] = Counter()  # by host

    def close(self) -> None:
        """Closes the connections of callers that are not authenticated."""
        for caller in list(self._callers.values()):
            self._hang_up(caller)

    def missing(self) -> str:
        """Returns the missing processes, as text."""
        missing = [str(i) for i in range(1, self._count) if i not in self.lines]
        names = ', '.join(missing[:8]) + (', ...' if missing[8:] else '')
        return f'process{"es" if missing[1:] else ""} {names} of {self._count}'

    def denials(self) -> str:
        """Returns the hosts that called with another token, as text; '' for none."""
        if not self._denied:
            return ''
        hosts = ', '.join(list(self._denied)[:4]) + (', ...' if len(self._denied) > 4 else '')
        return (
            f'{self._denied.total()} connections with another token were refused (from {hosts}; '
            f'{run_token.VARIABLE} has to be the same for all processes); '
        )

    def hear(self, listeners: list[socket.socket], timeout: float) -> None:
        """Reads all that has arrived; waits at most `timeout` seconds for it."""
        connections = [caller.connection for caller in self._callers.values()]
        ready = readable([*listeners, *connections, *self.lines.values()], timeout)
        for index, line in list(self.lines.items()):
            if line.fileno() in ready:
                self._check(index)
        for number, caller in list(self._callers.items()):
            if time.monotonic() > caller.deadline:
                self._hang_up(caller)
            elif number in ready:
                self._read(caller)
        for listener in listeners:
            if listener.fileno() in ready:
                self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, address = listener.accept()
        except BlockingIOError:  # the caller is already gone
            return
        except OSError:  # as with too many open files
            self._make_room()
            time.sleep(0.01)
            return
        if len(self._callers) >= _CALLERS:
            self._make_room()
        connection.setblocking(False)
        nonce = secrets.token_hex(_NONCE // 2).encode()
        caller = _Caller(connection, address[0], nonce, time.monotonic() + _SHAKE)
        self._callers[connection.fileno()] = caller
        try:
            connection.sendall(_GREETING + nonce + b'\n')
        except OSError:
            self._hang_up(caller)

    def _hang_up(self, caller: _Caller) -> None:
        del self._callers[caller.connection.fileno()]
        caller.connection.close()

    def _make_room(self) -> None:
        """Closes the oldest connection of the host with the most."""
        hosts = Counter(caller.host for caller in self._callers.values())
        for host, _ in hosts.most_common(1):
            self._hang_up(next(c for c in self._callers.values() if c.host == host))

    def _read(self, caller: _Caller) -> None:
        try:
            part = caller.connection.recv(_HELLO - len(caller.received))
        except BlockingIOError:
            return
        except OSError:
            part = b''
        caller.received += part
        if b'\n' in caller.received:
            self._answer(caller)
        elif not part or len(caller.received) >= _HELLO:
            self._hang_up(caller)

    def _answer(self, caller: _Caller) -> None:
        """Answers a caller that knows the token; closes the connection of any other."""
        line, _, rest = caller.received.partition(b'\n')
        nonce, code, text = (line.split(b' ', 2) + [b'', b''])[:3]
        said = caller.nonce, nonce, text
        if rest or not hmac.compare_digest(code, proof(self._token, b'hello', *said)):
            if len(nonce) == _NONCE and len(code) == 2 * _NONCE:  # a process of another run
                self._deny(caller)
            self._hang_up(caller)
            return
        del self._callers[caller.connection.fileno()]
        try:
            caller.connection.sendall(proof(self._token, b'welcome', *said) + b'\n')
        except OSError:
            caller.connection.close()
            return
        self._welcome(Connection(caller.connection, proof(self._token, b'line', *said), True), text)

    def _deny(self, caller: _Caller) -> None:
        with contextlib.suppress(OSError):
            caller.connection.sendall(b'denied\n')
        logged = caller.host in self._denied
        if logged or len(self._denied) < 8:
            self._denied[caller.host] += 1
        if not logged and len(self._denied) < 8:
            log.warning(
                'refused a process at %s that has another token: %s has to be the same for all '
                'processes of a run.',
                *(caller.host, run_token.VARIABLE),
            )

    def _welcome(self, line: Connection, text: bytes) -> None:
        """Adds an authenticated process to the connections, or finds the problem with it."""
        try:
            index, count, host = _parsed_hello(text)
        except Violation as error:
            self._refuse(line, f'a process sent a malformed hello ({error})')
            return
        if count != self._count:
            problem = (
                f'process {index} on {host} expects {count} processes, process 0 expects '
                f'{self._count}'
            )
            self._refuse(line, problem)
            return
        if not 0 <= index < count:
            self._refuse(line, f'process {index} on {host} is not in 0 to {count - 1}'[:300])
            return
        if index in self.lines:
            self._check(index)
        if index == 0 or index in self.lines:
            earlier = self._hosts[index]
            problem = f'two processes have the index {index}, on {earlier} and on {host}'
            self._refuse(line, problem)
            return
        self.lines[index], self._hosts[index] = line, host

    def _refuse(self, line: Connection, problem: str) -> None:
        self.problem = self.problem or (
            f'{problem}: start each with the same --process_count and a --process_index of its own.'
        )
        line.send({'kind': 'refused', 'text': self.problem})
        line.close()

    def _check(self, index: int) -> None:
        """Removes a process that left while it waited; others must not send anything yet."""
        try:
            if not self.lines[index].receive(0):
                return
            self.problem = self.problem or f'process {index} sent a message before the run began.'
        except EOFError:
            self.lines.pop(index).close()
        except Violation as error:
            self.problem = self.problem or f'process {index} sent a malformed message ({error}).'


def _parsed_hello(text: bytes) -> tuple[int, int, str]:
    hello = parsed(text)
    index, count, host = (hello.get(name) for name in ('index', 'count', 'host'))
    if len(hello) == 3 and type(index) is int and type(count) is int and type(host) is str:
        return index, count, host
    raise Violation(f'fields {sorted(hello)}'[:200])


# ------------------------------------------------------------------------------------------------
# The other processes
# ------------------------------------------------------------------------------------------------


def _reach(
    address: tuple[str, int], hello: Message, timeout: float, found: str, token: str | None
) -> tuple[Connection, list[Message]]:
    """Returns the connection to process 0, and the messages right after its start message."""
    began, problem, warned = time.monotonic(), 'no answer', False
    while (left := began + timeout - time.monotonic()) > 0:
        line, problem = _call_all(address, hello, token, min(left, 10))
        if isinstance(problem, _Stranger) and not warned and time.monotonic() > began + _STRANGE:
            warned = True
            log.warning(
                '%s:%s is not process 0 of this run yet (%s); retrying for %.0f s.',
                *(*address, problem, left),
            )
        if line is None:
            time.sleep(min(_RETRY, left))
            continue
        try:
            # From now on process 0 measures the timeout, and reports the missing processes.
            match line.receive(left + 10):
                case [{'kind': 'refused', 'text': text}, *_]:
                    raise UserError(str(text))
                case [{'kind': 'go'}, *early]:
                    return line, early
        except (EOFError, Violation):
            problem = 'it hung up'  # a run that is ending
        line.close()
        time.sleep(_RETRY)
    raise UserError(
        f'process {hello["index"]} of {hello["count"]} (by {found}) could not reach process 0 at '
        f'{address[0]}:{address[1]} in {timeout:.0f} s ({problem}): expected the same command on '
        'every host, and the port open between them; --coordinator HOST:PORT names another, '
        '--join_timeout SECONDS waits longer.'
    )


def _call_all(
    address: tuple[str, int], hello: Message, token: str | None, timeout: float
) -> tuple[Connection | None, Exception | str]:
    """Returns a connection to process 0 at one of the addresses of its name, or the problem.

    Another program at one address does not prevent trying the next.
    """
    problem: Exception | str = 'no answer'
    try:
        entries = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # a name that is unknown yet, or malformed
        return None, error
    for *_, sockaddr in entries:
        try:
            return _call(sockaddr, hello, token, timeout), ''
        except _Stranger as error:
            problem = error
        except OSError as error:
            problem = problem if isinstance(problem, _Stranger) else error
    return None, problem


def _call(sockaddr: tuple, hello: Message, token: str | None, timeout: float) -> Connection:
    """Returns a connection to process 0. Raises _Stranger for another program, or OSError."""
    connection = socket.create_connection(sockaddr[:2], timeout)
    with contextlib.ExitStack() as stack:
        stack.enter_context(connection)
        deadline = time.monotonic() + _SHAKE
        greeting, rest = _line(connection, deadline)
        theirs = greeting.removeprefix(_GREETING)
        if rest or not greeting.startswith(_GREETING) or len(theirs) != _NONCE:
            raise _Stranger('another program, or another version, answers')
        # Process 0 has written the file before it greets.
        secret = token if token is not None else run_token.read(sockaddr[1])
        if token is None and not secret:
            raise _Stranger(
                f'there is no token in {run_token.path(sockaddr[1])}; process 0 makes it where '
                f'{run_token.VARIABLE} is set for none, and TMPDIR the same for all'
            )
        key, ours = secret.encode(), secrets.token_hex(_NONCE // 2).encode()
        text = json.dumps(hello).encode()
        said = theirs, ours, text
        connection.sendall(ours + b' ' + proof(key, b'hello', *said) + b' ' + text + b'\n')
        answer, rest = _line(connection, deadline)
        if not hmac.compare_digest(answer, proof(key, b'welcome', *said)):
            raise _Stranger(
                f'it has another token; {run_token.VARIABLE} has to be the same for all processes'
            )
        stack.pop_all()
        return Connection(connection, proof(key, b'line', *said), False, rest)


def _line(connection: socket.socket, deadline: float) -> tuple[bytes, bytes]:
    """Returns a line without its end, and the bytes after it. Raises _Stranger without one."""
    received = b''
    while b'\n' not in received:
        left = deadline - time.monotonic()
        if left <= 0 or len(received) > 2 * _HELLO:
            raise _Stranger('another program answers')
        connection.settimeout(left)
        try:
            part = connection.recv(2**12)
        except TimeoutError:
            raise _Stranger('it accepts the connection but does not answer') from None
        if not part:
            raise _Stranger('it hung up')
        received += part
    line, _, rest = received.partition(b'\n')
    return line, rest

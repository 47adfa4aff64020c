"""The port of process 0, only at the addresses of the coordinator."""

import contextlib
import ipaddress
import logging
import socket
import time

from cls.distributed import run_token
from cls.errors import UserError

log = logging.getLogger(__name__)

_RETRY = 0.5  # seconds between attempts to get the port


def bind_addresses(host: str) -> list[str]:
    """Returns the addresses of this machine that the coordinator's name resolves to.

    The list is empty if other processes may reach this machine at an address that none of its
    interfaces has: a name behind NAT or of a Kubernetes service, or a name that resolves to a
    loopback address only on this machine.
    """
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ['127.0.0.1'] if host == 'localhost' else []
    addresses = list(dict.fromkeys(_numeric(sockaddr) for *_, sockaddr in entries))
    if run_token.is_loopback(host):
        addresses = [address for address in addresses if run_token.is_loopback(address)]
    elif any(map(run_token.is_loopback, addresses)):
        return []
    return [address for address in addresses if _is_ours(address)]


def _numeric(sockaddr: tuple) -> str:
    return socket.getnameinfo(sockaddr, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]


def _is_ours(address: str) -> bool:
    try:
        _server(address, 0).close()
    except OSError:
        return False
    return True


def _server(address: str, port: int) -> socket.socket:
    is_6 = ipaddress.ip_address(address).version == 6
    sockaddr = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][-1]
    family = socket.AF_INET6 if is_6 else socket.AF_INET
    return socket.create_server(sockaddr, family=family, backlog=socket.SOMAXCONN)


def _anywhere(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(
        ('', port), family=family, backlog=socket.SOMAXCONN, dualstack_ipv6=both
    )


def listen(
    stack: contextlib.ExitStack, address: tuple[str, int], deadline: float
) -> list[socket.socket]:
    """Returns sockets listening at the coordinator's addresses, until the stack is closed.

    Raises UserError if the port is still in use after 20 seconds.
    """
    host, port = address
    deadline = min(deadline, time.monotonic() + 20)  # a run that is ending may still use the port
    addresses = bind_addresses(host)
    if not addresses:
        log.warning(
            '%s is not an address of any interface of this host: waiting for the processes at port '
            '%s of all its addresses, until all are connected.',
            *(host, port),
        )
    while True:
        with contextlib.ExitStack() as made:
            try:
                listeners = [made.enter_context(_server(one, port)) for one in addresses]
                listeners = listeners or [made.enter_context(_anywhere(port))]
            except OSError as error:
                problem = error
            else:
                for listener in listeners:
                    listener.setblocking(False)  # a caller may hang up before it is accepted
                stack.push(made.pop_all())
                return listeners
        if time.monotonic() > deadline:
            raise UserError(
                f'process 0 cannot listen at port {port} ({problem.strerror}), another run may: '
                'end it, or give every process another --coordinator HOST:PORT.'
            )
        time.sleep(_RETRY)

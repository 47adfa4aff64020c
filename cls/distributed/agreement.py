"""Coordination of the processes of a run: a common start, shared values, and a common end.

  start       joins the processes, before JAX initializes its devices
  on_first    runs work on process 0 and returns its result on all processes
  on_all      runs work on every process; a UserError on one of them is raised on all
  gather      returns the values of all processes on all of them
  print_once  logs a line on process 0

With one process each of these is a plain function call.
"""

import argparse
import atexit
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from cls import signals
from cls.distributed import listening, rendezvous, run_token
from cls.distributed.peers import Peers
from cls.errors import UserError

log = logging.getLogger(__name__)

peers: Peers | None = None  # the connections of this process, after it has joined others


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `start` to a program that computes on all devices of a run."""
    group = parser.add_argument_group('several processes', 'by default as the launcher says')
    group.add_argument('--coordinator', default='', help='HOST:PORT of process 0')
    group.add_argument('--process_count', type=int, default=0, help='of the run; 1: only this one')
    group.add_argument('--process_index', type=int, default=-1, help='of this process, from 0')
    # Preempted hosts are set up again before they join: that takes minutes.
    group.add_argument(
        '--join_timeout', type=int, default=1800, help='seconds to wait for the others'
    )
    group.add_argument(
        '--no_token',
        action='store_true',
        help='run without CLS_TOKEN where nobody else can reach the coordinator',
    )


def start(flags: argparse.Namespace) -> None:
    """Joins the processes of a run: by the flags, or by Slurm, Open MPI, Kubernetes or a TPU.

    Without any of these the run is this one process. Call it before any use of devices.

    Args:
      flags: parsed flags, including those of `add_flags`.

    Raises:
      UserError: wrong flags or environment, or no token for several hosts; after the timeout, with
        the missing processes or the address that could not be reached.
    """
    import jax  # not at the top: programs without computation do not need it

    from cls.distributed import cluster

    global peers
    if flags.join_timeout < 1:
        raise UserError(f'--join_timeout is {flags.join_timeout}: expected 1 second or more.')
    found = cluster.find(
        flags.coordinator, flags.process_count, flags.process_index, flags.join_timeout
    )
    if found is None:
        return
    host, _, port = found.coordinator.rpartition(':')
    address = host.strip('[]'), int(port)
    token = run_token.choose(address[0], found.found, flags.no_token, os.environ)
    peers = rendezvous.rendezvous(
        address, found.index, found.count, flags.join_timeout, found.found, token
    )
    signals.tell_all(peers.fail)
    # cls.distributed.preemption handles SIGTERM: the handler of JAX would replace it.
    jax.config.update('jax_enable_preemption_service', False)
    jax.distributed.initialize(
        found.coordinator,
        found.count,
        found.index,
        found.local_devices,
        cluster_detection_method='deactivate',
        initialization_timeout=120,  # all processes are present
        coordinator_bind_address=_bind_address(*address) if found.index == 0 else None,
    )
    atexit.register(peers.end)  # runs before JAX's own, that waits for all
    seen = jax.process_index(), jax.process_count()
    if seen != (found.index, found.count):
        raise UserError(
            f'the devices say that this is process {seen[0]} of {seen[1]}, but {found.found} says '
            f'{found.index} of {found.count}: expected hosts of the same slice.'
        )
    print_once(
        f'{found.count} processes, found by {found.found}, with {jax.device_count()} devices; '
        f'coordinator {found.coordinator}'
    )


def _bind_address(host: str, port: int) -> str | None:
    """Returns the address for JAX's service, that of our own port; None: all addresses."""
    if 'JAX_COORDINATOR_BIND_ADDRESS' in os.environ:
        return None  # JAX reads it
    addresses = listening.bind_addresses(host)
    if not addresses:
        return None if socket.has_dualstack_ipv6() else f'0.0.0.0:{port}'
    name = addresses[0] if len(addresses) == 1 else host  # JAX takes all of a name
    return f'[{name}]:{port}' if ':' in name else f'{name}:{port}'


def is_main_process() -> bool:
    """Returns whether this is process 0: it writes and prints for all processes."""
    return peers is None or peers.index == 0


def print_once(text: str) -> None:
    """Logs a line at level INFO on process 0 only; programs print it."""
    if is_main_process():
        log.info(text)


def gather(name: str, value: Any) -> list[Any]:
    """Returns the values of all processes, after a round trip through JSON; waits for all.

    Args:
      name: identifies the call; the same on all processes.
      value: any JSON value.
    """
    return peers.gather(name, value) if peers else [value]


def on_first(name: str, work: Callable[[], Any]) -> Any:
    """Returns, on all processes, the result of `work` on process 0, a JSON value.

    A UserError on process 0 is raised on all processes.
    """
    if peers is None:
        return work()
    return on_all(name, lambda: work() if is_main_process() else None, share=True)


def on_all(name: str, work: Callable[[], Any], share: bool = False) -> Any:
    """Returns the result of `work` on this process, or with `share` the result on process 0.

    A UserError on any process is raised on all.
    """
    if peers is None:
        return work()
    result, problem = None, None
    try:
        result = work()
    except UserError as error:
        problem = str(error)
    answers = peers.gather(name, [problem, result if share else None])
    for index, answer in enumerate(answers):
        match answer:
            case [None | str() as problem, _]:
                pass
            case _:
                fail(f'process {index} answers {name!r} as no process of a run does.', 1)
        if problem is not None:
            raise UserError(problem if index == 0 else f'process {index}: {problem}')
    return answers[0][1] if share else result


def fail(text: str, code: int) -> NoReturn:
    """Ends all processes of the run with a line and an exit code."""
    if peers is not None:
        peers.fail(text, code)
    print(f'error: {text}', file=sys.stderr)
    sys.exit(code)

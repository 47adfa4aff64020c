"""The secret token of a run: only processes that know it can join.

It is in the environment variable CLS_TOKEN, which the scripts in launch/ set. Processes of one
machine with a coordinator at a loopback address do not need the variable: process 0 writes a token
to a file that only its user can read.
"""

import contextlib
import ipaddress
import os
import secrets
import stat
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from cls.errors import UserError

VARIABLE = 'CLS_TOKEN'
SHORTEST = 16  # the fewest characters; ours have 32, with 128 random bits
_MAKE = """export CLS_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(16))')"""
_HAND_ON = {  # how each launcher passes the variable to its processes
    'Slurm': f'`{_MAKE}` before srun, which passes it on',
    'Open MPI': f'`{_MAKE}` and then `mpirun -x CLS_TOKEN ...`',
    'Kubernetes': 'CLS_TOKEN from a Secret in the environment of every pod',
}


def is_loopback(host: str) -> bool:
    """Returns whether the name of a host can only mean this machine.

    Other names count as remote even if they resolve to a loopback address: Debian resolves the
    machine's own name to 127.0.1.1, and other hosts to another address.
    """
    if host == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def choose(
    host: str, launcher: str, no_token: bool, environment: MutableMapping[str, str]
) -> str | None:
    """Returns the token of a run; '' for none, None for the token in the file (`create`, `read`).

    Args:
      host: the host of the coordinator.
      launcher: the name of the launcher, for messages.
      no_token: whether to run without a token.
      environment: the variable is removed from it, so that no child process or log has it.

    Raises:
      UserError: no token for processes of several hosts, a token that is too short, or a token
        despite `no_token`.
    """
    token = environment.pop(VARIABLE, '').strip()
    if token and no_token:
        raise UserError(f'--no_token is given and {VARIABLE} is set: expected one of the two.')
    if no_token:
        return ''
    if token and len(token) < SHORTEST:
        raise UserError(
            f'{VARIABLE} has {len(token)} characters: expected {SHORTEST} or more, as from '
            f'`{_MAKE}`.'
        )
    if token:
        return token
    if is_loopback(host):
        return None
    advice = _HAND_ON.get(launcher, f'`{_MAKE}` on one host and the same value on all others')
    raise UserError(
        f'the processes of this run (by {launcher}) meet at {host} and have no token that tells '
        f'them from strangers on the network: {advice}; or --no_token where nobody else can reach '
        'that host.'
    )


def path(port: int) -> Path:
    """Returns the token file of this user's processes with a coordinator at a local port."""
    return Path(tempfile.gettempdir()) / f'cls-{os.getuid()}' / f'token-{port}'


def create(port: int) -> str:
    """Writes a new token to the file of a port and returns it.

    Raises UserError if the folder cannot be made or is not private.
    """
    file, token = path(port), secrets.token_hex(16)
    temporary = file.with_name(f'{file.name}.{os.getpid()}')
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        _check(file.parent)
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), 'w') as stream:
            stream.write(token)
        temporary.replace(file)
    except OSError as error:
        raise UserError(
            f'{file}: cannot be written ({error.strerror}), so that the processes have no token: '
            f'`{_MAKE}` before starting them, or --no_token.'
        ) from error
    return token


def read(port: int) -> str:
    """Returns the token in the file of a port; '' if there is none.

    Raises UserError if the folder is not private.
    """
    file = path(port)
    try:
        _check(file.parent)
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ''


def remove(port: int) -> None:
    """Removes the file of a port."""
    with contextlib.suppress(OSError):
        path(port).unlink()


def _check(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UserError(
            f'{folder} is not a private folder of this user, so that no token can be kept there: '
            f'remove it, set TMPDIR to another place, or `{_MAKE}` before starting the processes.'
        )

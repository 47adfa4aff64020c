"""The secret that the processes of a run share, so that nobody else can take part in it.

CLS_TOKEN in the environment holds it; the scripts in launch/ set it. Processes of one machine that
meet at a loopback address need none: process 0 writes a token to a file that only its user can
read, and the others read it there.
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
SHORTEST = 16  # characters; what we make has 32, of 128 random bits
_MAKE = """export CLS_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(16))')"""
_HAND_ON = {  # how a launcher hands the variable to its processes
    'Slurm': f'`{_MAKE}` before srun, which hands it on',
    'Open MPI': f'`{_MAKE}` and then `mpirun -x CLS_TOKEN ...`',
    'Kubernetes': 'CLS_TOKEN from a Secret in the environment of every pod',
}


def is_loopback(host: str) -> bool:
    """Whether a host, as written, is only this machine.

    Other names count as remote even where they resolve to a loopback address: Debian gives the
    machine's own name 127.0.1.1, and other hosts see another address.
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
    """Returns the token of a run; '' for none, and None for that of a file (`create`, `read`).

    Args:
      host: the coordinator's.
      launcher: by which the processes were found, for the message.
      no_token: go without one.
      environment: loses the variable, so that nothing that the run starts or logs has it.

    Raises:
      UserError: no token for processes of several hosts, a short one, one in spite of `no_token`.
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
    """Returns the file for the token of this user's processes that meet at a port here."""
    return Path(tempfile.gettempdir()) / f'cls-{os.getuid()}' / f'token-{port}'


def create(port: int) -> str:
    """Writes a new token to the file of a port and returns it.

    Raises UserError where the folder cannot be made or somebody else can change or read it.
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

    Raises UserError for a folder that somebody else can change or read.
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

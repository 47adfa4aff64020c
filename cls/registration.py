"""Config files of users, and the names that they register: models, losses, optimizers, data sets.

May import: errors.
"""

import contextlib
import contextvars
from collections.abc import Iterator

from cls.errors import UserError

_file: contextvars.ContextVar[str] = contextvars.ContextVar('file', default='')
_files: set[str] = set()
_origins: dict[tuple[str, str], str] = {}  # (kind, name) -> the file


@contextlib.contextmanager
def registered_by(file: str) -> Iterator[None]:
    """A context in which names belong to a config file, and may be registered again."""
    _files.add(file)
    token = _file.set(file)
    try:
        yield
    finally:
        _file.reset(token)


def current() -> str:
    """Returns the config file that is being read, '' outside of `registered_by`."""
    return _file.get()


def files() -> list[str]:
    """Returns the config files that this process has read, sorted."""
    return sorted(_files)


def claim(kind: str, name: str, taken: bool) -> None:
    """Records that the config file that is being read registers a name.

    Args:
      kind: 'loss', 'optimizer' or 'data set'.
      name: the name.
      taken: whether there is something of that name already.

    Raises UserError if the name is taken by the package or another file.
    """
    file, before = current(), origin(kind, name)
    if taken and (not file or before != file):
        raise UserError(
            f'{file or "the program"} registers a {kind} {name!r}, which '
            f'{before or "cls"} has already: expected another name.'
        )
    if not name.isidentifier():
        raise UserError(
            f'{file or "the program"} registers a {kind} {name!r}: expected letters, digits and _.'
        )
    _origins[kind, name] = file


def origin(kind: str, name: str) -> str:
    """Returns the config file that registered a name, '' for those of cls and of programs."""
    return _origins.get((kind, name), '')

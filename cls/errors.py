"""The exception for mistakes of the user, shown as one line with exit code 2 (see cls.cli).

May import: nothing.
"""

import difflib
import errno
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

_FULL = 'no space left'
_SHOWN = 8  # mistakes in one message
# Errors of a file or its disk, not of the program.
_ON_FILES = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE),
    *(errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.ENOTCONN),
)


class UserError(Exception):
    """A mistake that the user can fix; the message has the mistake, the expectation, the remedy."""


def joined(mistakes: Iterable[str]) -> str:
    """Returns mistakes, each a sentence, as one line; '' if there are none."""
    lines = list(dict.fromkeys(mistakes))
    text = ' '.join(line if line.endswith(('.', '?')) else f'{line}.' for line in lines[:_SHOWN])
    return text + (f' And {len(lines) - _SHOWN} more.' if lines[_SHOWN:] else '')


def refuse(mistakes: Iterable[str]) -> None:
    """Raises one UserError for all mistakes, each a sentence; does nothing if there are none."""
    if text := joined(mistakes):
        raise UserError(text)


class Mistakes:
    """The mistakes of several checks, to be reported together.

    with_model = mistakes.attempt(create, spec)  # None where that raises a UserError
    mistakes.refuse()  # raises one UserError for all of them
    """

    def __init__(self) -> None:
        self._errors: list[UserError] = []

    def attempt(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Returns function(*args, **kwargs); stores a UserError and returns None instead."""
        try:
            return function(*args, **kwargs)
        except UserError as error:
            if str(error) not in map(str, self._errors):
                self._errors.append(error)
            return None

    def error(self) -> UserError:
        """Returns the UserError for all mistakes."""
        if len(self._errors) == 1:
            return self._errors[0]  # with its own cause and trace
        return UserError(joined(map(str, self._errors)))

    def refuse(self) -> None:
        """Raises a UserError for all mistakes; does nothing if there are none."""
        if self._errors:
            raise self.error()


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns ' Did you mean a, b?' with the known names nearest to `name`, or ''."""
    known, name = list(dict.fromkeys(known)), name.lower()
    begun = sorted((other for other in known if name and other.lower().startswith(name)), key=len)
    lower: dict[str, str] = {}
    for other in known:
        lower.setdefault(other.lower(), other)
    alike = difflib.get_close_matches(name, lower, n=count, cutoff=0.5)
    close = (begun or [lower[other] for other in alike])[:count]
    return f' Did you mean {", ".join(close)}?' if close else ''


def require(package: str, extra: str) -> None:
    """Raises UserError for a package of an optional requirement that is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:  # a folder of this name, as wandb's own, is no package
        raise UserError(f"the package {package} is not installed: run pip install 'cls[{extra}]'.")


def reason(error: BaseException) -> str:
    """Returns the system's reason for a failed file operation, '' for any other error.

    The chain of causes is searched as well, because libraries wrap such errors.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror and seen.errno in _ON_FILES:
            names = [str(name) for name in (seen.filename, seen.filename2) if name is not None]
            return ': '.join([*names[-1:], seen.strerror.lower()])
        if _FULL in str(seen).lower():
            return f'{_FULL} on the disk ({str(seen).splitlines()[0][:200]})'
        seen = seen.__cause__ or seen.__context__
    return ''

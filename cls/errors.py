"""The one exception for mistakes of the user, shown as a line and exit code 2 (see cls.main).

May import: nothing.
"""

import difflib
import errno
from collections.abc import Iterable

_FULL = 'no space left'
# What is wrong with a file or its disk, not with the program.
_ON_FILES = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE),
    *(errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.ENOTCONN),
)


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what was wrong, expected, and to do."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns ' Did you mean a, b?' with the known names nearest to `name`, or ''."""
    known = list(known)
    begun = [other for other in known if name and other.startswith(name)]
    close = (begun or difflib.get_close_matches(name, known, n=count, cutoff=0.5))[:count]
    return f' Did you mean {", ".join(close)}?' if close else ''


def reason(error: BaseException) -> str:
    """Returns why the system refused an operation on a file, '' if that is not what went wrong.

    It is looked for in what an error was raised from too, whichever library did.
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

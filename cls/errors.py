"""The one exception for mistakes of the user, shown as a line and exit code 2 (see cls.main)."""

import argparse
import difflib
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what was wrong, expected, and to do."""


class Parser(argparse.ArgumentParser):
    """Reads the flags of a program; a mistake is a UserError, one line as all others."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f'{message}; {self.prog} --help lists the flags.')


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns ' Did you mean a, b?' with the known names nearest to `name`, or ''."""
    known = list(known)
    begun = [other for other in known if name and other.startswith(name)]
    close = (begun or difflib.get_close_matches(name, known, n=count, cutoff=0.5))[:count]
    return f' Did you mean {", ".join(close)}?' if close else ''


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a program and exits with its code; a UserError becomes a line on stderr and code 2.

    So does a full disk, whichever library came upon it. Where a process is one of several, all end.
    """
    from cls import distributed  # which raises UserErrors itself

    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        if distributed.links:
            distributed.fail('interrupted', 130)
        sys.exit(130)
    except UserError as error:
        message = str(error)
    except Exception as error:
        if 'No space left on device' in str(error):
            message = 'no space left on the disk; free some and run the same command again.'
            message += f' ({error})'
        elif distributed.links:
            time.sleep(2)  # what failed may be that another process has gone: then this one ends
            traceback.print_exc()
            distributed.fail(f'{type(error).__name__}: {error}'[:300], 1)
        else:
            raise
    distributed.fail(_shortened(' '.join(message.split())), 2)


def _shortened(line: str) -> str:
    """Cuts the middle out of words that fill a screen, as a value of thousands of letters."""
    return re.sub(r'(\S{60})\S{140,}(\S{20})', r'\1...\2', line)

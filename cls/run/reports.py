"""The files of an evaluation: in the run folder, or in the folder of --output."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from cls.errors import UserError, reason
from cls.run.workdir import exclusive
from cls.storage import paths

log = logging.getLogger(__name__)


def prepare(workdir: Path, output: Path | None, wanted: bool = False) -> None:
    """Raises UserError, before anything is computed, if the files could not be written.

    Args:
      workdir: the run folder.
      output: the folder for the files, created if missing; None: the run folder.
      wanted: whether the user has asked for any of the files.
    """
    if output is not None:
        _write(lambda folder: paths.write_whole(folder / '.probe', b''), output)
        (output / '.probe').unlink()
    elif wanted:
        deliver(lambda folder: None, workdir, None, wanted=True)


def deliver(
    write: Callable[[Path], None], workdir: Path, output: Path | None, wanted: bool = False
) -> None:
    """Calls `write` with `output`, or with the run folder if this process can lock it.

    A run folder that another process has locked, or that cannot be written to, is not changed; this
    is logged.

    Args:
      write: called with the folder.
      workdir: the run folder.
      output: the folder for the files; None: the run folder.
      wanted: whether it is an error if the files are not written.

    Raises:
      UserError: `output` cannot be written to, or with `wanted` the run folder cannot.
    """
    if output is not None:
        _write(write, output)
        return
    try:
        with contextlib.ExitStack() as stack:
            if paths.is_remote(workdir):
                stack.enter_context(paths.explained(workdir))
            stack.enter_context(exclusive(workdir))
            write(workdir)
    except (UserError, OSError) as error:
        why = str(error) if isinstance(error, UserError) else reason(error) or str(error)
        text = f'nothing is written to {workdir}: {why.rstrip(".")}. Give --output DIR.'
        if wanted:
            raise UserError(text) from error
        log.info(text)


def _write(write: Callable[[Path], None], output: Path) -> None:
    try:
        paths.make_folder(output)
        write(output)
    except OSError as error:
        raise UserError(
            f'--output {output} cannot be written to ({reason(error) or error}): choose another.'
        ) from error

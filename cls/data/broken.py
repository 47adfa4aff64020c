"""Images that cannot be read or decoded: reported by name, or repaired and counted.

The message of a decoder has no file name; the methods of a source that call `made` add it.
"""

import dataclasses
import hashlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from cls import signals
from cls.data.decode import BrokenImage, DamagedImage, Rules, decode
from cls.data.file_list import ImageList
from cls.errors import UserError
from cls.storage.cache import cache_dir

SECONDS = 30  # the duration of the longest search for further broken files
NAMED = 20  # broken files that are named on one line
_WAITS = (0.1, 0.5)  # seconds before each retry of a read
_STEP = 64  # files that are checked between two looks at the clock


def described(error: BrokenImage) -> str:
    """Returns the reason of an error, with the field of a run's config that can be changed."""
    return f'{error}; see config.{error.field}' if error.field else str(error)


class BrokenFile(UserError):
    """A file that cannot be decoded, without a search for further ones."""

    def __init__(self, folder: Path, name: str, reason: BrokenImage) -> None:
        super().__init__(
            f'{name} in {folder} cannot be decoded ({described(reason)}): replace or remove it.'
        )
        self.folder, self.name, self.reason = folder, name, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return BrokenFile, (self.folder, self.name, self.reason)


T = TypeVar('T')
_repaired: set[str] = set()  # of this process
_counting = threading.Lock()
log = logging.getLogger(__name__)


def insisting(read: Callable[[], T], file: str) -> T:
    """Returns read(), and tries it again after an OSError.

    Raises UserError with the file and the operating system's reason.
    """
    for wait in (*_WAITS, None):
        try:
            return read()
        except OSError as error:
            if wait is None:
                raise UserError(
                    f'{file} cannot be read ({error.strerror or error}), in {len(_WAITS) + 1} '
                    'tries: expected a file that stays readable during the run.'
                ) from error
            time.sleep(wait)
    raise AssertionError


class Verified:
    """For each image of a source, whether this process has found it intact.

    A process decodes each image in full the first time, so workers begin without any.
    """

    def __init__(self, count: int) -> None:
        self._flags = bytearray(count)

    def __reduce__(self) -> tuple[Any, ...]:
        return Verified, (len(self._flags),)

    def __getitem__(self, index: int) -> bool:
        return bool(self._flags[index])

    def add(self, index: int) -> None:
        """Notes that an image is intact."""
        self._flags[index] = True


def made(name: str, rules: Rules, make: Callable[[Rules], T], verified: Verified, index: int) -> T:
    """Returns make(rules) for an image; repairs a damaged image if the rules allow it.

    Damaged images are counted, and named in the log. A process decodes each file in full the first
    time, so that damage below a crop is noticed before later epochs train on it.

    Args:
      name: The name of the image, for messages.
      rules: The options of decoding.
      make: (rules) -> result.
      verified: The images that were found intact; updated in place.
      index: The index of the image in `verified`.

    Raises the errors of `make`.
    """
    try:
        strict = dataclasses.replace(rules, repair=False, verify=not verified[index])
        result = make(strict)
        verified.add(index)
        return result
    except DamagedImage as error:
        if not rules.repair:
            raise
        with _counting:
            new = name not in _repaired
            _repaired.add(name)
            count = len(_repaired)
        if new and (count <= 5 or count & (count - 1) == 0):
            log.warning(
                '%s is damaged (%s) and is taken as far as it can be decoded, as '
                'config.data.broken_images says: %d such image(s) so far%s.',
                name, error, count,
                ' in this process of config.data.workers' * bool(multiprocessing.parent_process()),
            )  # fmt: skip
        return make(rules)


def report(workers: int = 0) -> None:
    """Logs the number of damaged images that this process has repaired, if any.

    Args:
      workers: config.data.workers of a training run; these processes count its images themselves.
    """
    if _repaired:
        what = 'to evaluate on (those of training are counted above) ' if workers else ''
        log.warning(
            '%d damaged image(s) %swere taken as far as they could be decoded '
            '(config.data.broken_images).', len(_repaired), what,
        )  # fmt: skip


def verdict(error: BrokenFile, files: ImageList, channels: int, rules: Rules) -> str:
    """Returns a line that counts and names the broken images of a folder.

    A folder with one broken file often has more, so they are reported together. The search takes at
    most `SECONDS`, and ends when a signal asks the program to stop: the run has to be saved in the
    time that is left. If there are more than `NAMED`, the line names a file that lists them.

    Args:
      error: The image that is known to be broken.
      files: The images in its folder.
      channels: The number of channels to decode to.
      rules: The options of decoding.
    """
    folder, found = error.folder, error.name
    log.warning(
        '%s in %s cannot be decoded (%s). Looking for further ones among its %d images, for %d '
        'seconds at most.', found, folder, described(error.reason), len(files), SECONDS,
    )  # fmt: skip
    looked, reasons = _search(files, channels, rules)
    reasons = {found: error.reason} | reasons
    listed = [f'{file} ({described(why)})' for file, why in reasons.items()]
    shown = ', '.join(sorted(listed[:NAMED]))
    if len(listed) > NAMED:
        shown += f', ... (all are listed in {_write_list(folder, sorted(listed))})'
    part = '' if looked == len(files) else f' (the search ended after {looked} of them)'
    damaged = any(isinstance(why, DamagedImage) for why in reasons.values())
    return (
        f'{len(listed)} of the {len(files)} images in {folder} cannot be decoded{part}: {shown}. '
        'Replace or remove them'
        + (', or set config.data.broken_images=take for damaged JPEGs.' if damaged else '.')
    )


def _search(files: ImageList, channels: int, rules: Rules) -> tuple[int, dict[str, BrokenImage]]:
    """Decodes files until the time is over, or the program is asked to stop.

    Returns:
      (number of decoded files, {name of a broken file: reason}).
    """
    until, looked, reasons = time.monotonic() + SECONDS, 0, {}

    def reason(index: int) -> BrokenImage | None:
        try:
            decode(files.content(index), channels, rules)
        except OSError as error:
            return BrokenImage(error.strerror or str(error))
        except BrokenImage as error:
            return error
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while looked < len(files) and time.monotonic() < until and signals.stopped_by is None:
            part = range(looked, min(looked + _STEP, len(files)))
            for index, why in zip(part, pool.map(reason, part), strict=True):
                if why is not None:
                    reasons[files[index]] = why
            looked += len(part)
    return looked, reasons


def _write_list(folder: Path, lines: list[str]) -> str:
    """Writes a file with one line for each broken image of a folder; returns its path."""
    digest = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:12]
    file = cache_dir() / 'broken_images' / f'{digest}.txt'
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('\n'.join(lines) + '\n', errors='surrogateescape')
    except OSError as error:
        return f'no file, as {file} cannot be written: {error.strerror}'
    return str(file)

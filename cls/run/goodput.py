"""Goodput: the fraction of a run's time, over all restarts, spent on steps that were kept.

Every moment belongs to one of `BUCKETS`, so they sum to the time since the first start:

  start       from the start of the program: imports, joining hosts, opening the data, restoring
  compile     compiling the training step of every phase, and the evaluation step
  data        waiting for the next batch
  step        training steps that the run kept
  eval        evaluations
  checkpoint  the part of saving that the loop waits for
  other       logging and the like
  rework      data, step and eval after the checkpoint that a restart continued from: they are
              computed again. Nothing of start, compile and checkpoint: these are the costs of
              restarts
  downtime    from the last write of a process to the start of the next

Goodput is `step` as a fraction of all buckets, with `downtime` or without. A run of several
processes keeps the ledger of process 0.

A killed process cannot report its time, and a checkpoint has only the time before it. So a thread
also writes the ledger to time.json, at log events and about every ten seconds; the time of a
process after its last write counts as `downtime`. Two times are not counted at all: the end of the
last process after the result is written, and the sleep of a machine while a process runs.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cls.run.telemetry import write_json
from cls.storage import paths

BUCKETS = ('start', 'compile', 'data', 'step', 'eval', 'checkpoint', 'other', 'rework', 'downtime')
REPEATED = ('data', 'step', 'eval')  # a restart spends them again
FILE = 'time.json'
FORMER = {'lost': 'rework', 'down': 'downtime'}  # names in records of version 0.1
BEAT = 10.0  # seconds between writes of the file without a log event
PATIENCE = 60.0  # seconds without a successful write until a warning is logged
REST = 20  # the thread spends at most 1 / REST of its time on writing, however slow the storage
log = logging.getLogger(__name__)

# Seconds of each bucket, `restarts`, and `at`: the time of the record, in seconds since 1970.
Record = Mapping[str, Any]


class TimeLedger:
    """The time of a process by bucket, added to that of earlier processes of the run."""

    def __init__(self, began: float | None = None) -> None:
        """Starts with the bucket `start`, at time `began` of time.perf_counter; None: now."""
        now = time.perf_counter()
        self._bucket, self._since = 'start', now if began is None else began
        self._began_at = time.time() - (now - self._since)
        self._own: dict[str, float] = dict.fromkeys(BUCKETS, 0.0)
        self._lock = threading.Lock()  # against a reader in another thread
        self._earlier: Record = {}
        self.due = threading.Event()  # set: the ledger is to be written

    def continue_from(self, checkpoint: Record, newest: Record) -> None:
        """Adds the time of earlier processes of the run, see `continued`."""
        self._earlier = continued(checkpoint, newest, self._began_at)

    @contextlib.contextmanager
    def spend(self, bucket: str) -> Iterator[None]:
        """A context whose time counts to a bucket, not to that of an enclosing block."""
        outer = self.switch(bucket)
        try:
            yield
        finally:
            self.switch(outer)

    def switch(self, bucket: str) -> str:
        """Sets the bucket of the time from now on, outside of `spend`; returns the previous one."""
        with self._lock:
            now, outer = time.perf_counter(), self._bucket
            self._own[outer] += now - self._since
            self._bucket, self._since = bucket, now
        return outer

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each bucket until now, of all processes."""
        with self._lock:
            own = dict(self._own)
            own[self._bucket] += time.perf_counter() - self._since
        return {bucket: own[bucket] + self._earlier.get(bucket, 0.0) for bucket in BUCKETS}

    @property
    def restarts(self) -> int:
        """The number of earlier processes of the run."""
        return int(self._earlier.get('restarts', 0))

    def record(self) -> dict[str, float]:
        """Returns the record for the next process of the run."""
        return self.seconds | {'restarts': self.restarts, 'at': time.time()}

    def report(self) -> dict[str, object]:
        """Returns the time fields of result.json; goodput in percent."""
        seconds = self.seconds
        return {
            'seconds': round(running(seconds), 2),
            'time': {bucket: round(value, 2) for bucket, value in seconds.items()},
            'goodput': round(100 * goodput(seconds), 2),
            'goodput_with_downtime': round(100 * goodput(seconds, downtime=True), 2),
            'restarts': self.restarts,
        }

    def __str__(self) -> str:
        seconds = self.seconds
        hidden = {'downtime'} | (set() if self.restarts else {'rework'})
        parts = [f'{name} {value:.1f} s' for name, value in seconds.items() if name not in hidden]
        text = f'{running(seconds):.1f} s, goodput {100 * goodput(seconds):.1f} %'
        text += f': {", ".join(parts)}'
        if self.restarts:
            overall = 100 * goodput(seconds, downtime=True)
            text += f'; restarts: {self.restarts}, {seconds["downtime"]:.1f} s of downtime'
            text += f' (goodput with that {overall:.1f} %)'
        return text


def continued(checkpoint: Record, newest: Record, began: float) -> dict[str, float]:
    """Returns the record that a process starts with.

    Args:
      checkpoint: the record in the checkpoint that the process continues from; {}: none.
      newest: the last record that a process of the run wrote; {}: none.
      began: start of the process, in seconds since 1970. If the clock was set back meanwhile, it
        may be earlier than `newest`; then the unknown time between them is not counted.
    """
    newest, checkpoint = _renamed(newest), _renamed(checkpoint)
    newest = max(newest, checkpoint, key=total)  # that of a copied folder may be missing or old
    if not newest:
        return {}
    record = {bucket: newest.get(bucket, 0.0) for bucket in BUCKETS}
    for bucket in REPEATED:
        kept = min(checkpoint.get(bucket, 0.0), record[bucket])
        record['rework'] += record[bucket] - kept
        record[bucket] = kept
    record['downtime'] += max(began - newest.get('at', began), 0.0)
    return record | {'restarts': newest.get('restarts', 0) + 1}


def _renamed(record: Record) -> Record:
    return {FORMER.get(name, name): value for name, value in record.items()}


def total(record: Record) -> float:
    """Returns the seconds since the first start of a run."""
    return sum(record.get(bucket, 0.0) for bucket in BUCKETS)


def running(record: Record) -> float:
    """Returns the seconds with a running process of the run."""
    return total(record) - record.get('downtime', 0.0)


def goodput(record: Record, downtime: bool = False) -> float:
    """Returns the fraction of the time, 0 to 1, spent on steps that the run kept.

    Args:
      record: the record of the run.
      downtime: whether the time between processes counts as time of the run.
    """
    time_of_run = total(record) if downtime else running(record)
    return record.get('step', 0.0) / time_of_run if time_of_run else 0.0


def load_record(path: Path) -> dict[str, float]:
    """Returns the newest record of a run's earlier processes; {} if none can be read."""
    try:
        record = {name: float(value) for name, value in paths.parse_json(path.read_bytes()).items()}
        if all(0 <= value < math.inf for value in record.values()):
            return record
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    log.warning('%s cannot be read; the rework since the checkpoint is not known.', path)
    return {}


@contextlib.contextmanager
def written(ledger: TimeLedger, path: Path, leader: bool = True) -> Iterator[None]:
    """A context that keeps a file up to date with a ledger; does nothing unless `leader`.

    A file that cannot be written is logged once, unless the block ends in an error: that error
    already reports the disk or the folder.
    """
    if not leader:
        yield
        return
    stop, problem, since, warned = threading.Event(), None, 0.0, False

    def write() -> float:
        nonlocal problem, since
        began = time.perf_counter()
        try:
            write_json(path, ledger.record())
            problem = None
        except Exception as error:  # of any storage; the run continues, and the next may succeed
            since = since if problem else began
            problem = error
            if began - since > PATIENCE:
                warn()
        return time.perf_counter() - began

    def warn() -> None:
        nonlocal warned
        if problem and not warned:
            log.warning('%s cannot be written: %s', path, problem)
            warned = True

    def beat() -> None:
        while not stop.is_set():
            stop.wait(min(REST * write(), BEAT))
            ledger.due.wait(BEAT)
            ledger.due.clear()

    thread = threading.Thread(target=beat, name='ledger', daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        warned = True
        raise
    finally:
        stop.set()
        ledger.due.set()
        thread.join()
        write()
        warn()

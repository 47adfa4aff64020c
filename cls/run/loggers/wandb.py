"""Weights & Biases; WANDB_MODE=offline, WANDB_ENTITY, ... are read by the package itself."""

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls.run.loggers import drawing
from cls.run.loggers.base import Histogram, Logger, Package, Place, new_id
from cls.storage import paths

wandb: Any = Package('wandb')
_HEAD, _BLOCK, _PART = 7, 2**15, 7  # bytes in an offline file: its head, a block, a part's head
log = logging.getLogger(__name__)


def open_logger(place: Place) -> 'Run':
    """Returns a logger for a run. Raises the errors of wandb, as without an API key."""
    return Run(place)


class Run(Logger):
    """A run of Weights & Biases. Offline, each process of the run has a folder of its own."""

    def __init__(self, place: Place) -> None:
        """Creates the run, or continues that of `place.id`."""
        self.id = place.id or new_id()
        local = not paths.is_remote(place.workdir)
        before = last_offline_step(place.workdir, self.id) if place.id and local else None
        self._run = wandb.init(
            project=place.project,
            name=place.name,
            id=self.id,
            resume='allow',
            dir=str(place.workdir) if local else None,
            config=dict(place.config),
            settings=wandb.Settings(silent=True, console='off'),
        )
        if place.id:
            self.last_step = before if self._run.offline else self._run.starting_step - 1

    def how_to_view(self) -> str:
        run = self._run
        if run.offline:
            folder = run.dir.removesuffix('/files')
            return f'wandb: run {self.id} is offline; wandb sync --append {folder} sends it'
        return f'wandb: {run.url}'

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        self._run.log({name: [wandb.Image(image) for image in images]}, step=step)

    def histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        values = {
            name: wandb.Histogram(np_histogram=(each.counts.tolist(), each.edges.tolist()))
            for name, each in histograms.items()
        }
        self._run.log(values, step=step)

    def confusion(self, step: int, name: str, counts: np.ndarray, classes: Sequence[str]) -> None:
        if len(counts) > drawing.LISTED:
            chart: Any = wandb.Image(drawing.heat_map(counts))
        else:
            labels, guesses = np.nonzero(counts)
            images = counts[labels, guesses]
            chart = wandb.plot.confusion_matrix(
                y_true=labels.repeat(images).tolist(),
                preds=guesses.repeat(images).tolist(),
                class_names=drawing.named(classes, len(counts)),
                title=name,
            )
        self._run.log({name: chart}, step=step)

    def summary(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    def close(self, failed: bool = False) -> None:
        self._run.finish(exit_code=int(failed), quiet=True)


def last_offline_step(workdir: Path, id: str) -> int | None:
    """Returns the last step in the offline files of a run, -1 for none; None: they are not read.

    The package writes with a delay: a process that is killed loses its last entries.
    """
    last = -1
    try:
        record_type = importlib.import_module('wandb.proto.wandb_internal_pb2').Record
        for file in sorted(workdir.glob(f'wandb/offline-run-*/run-{id}.wandb')):
            for entry in _entries(file.read_bytes()):
                record = record_type.FromString(entry)
                if record.HasField('history'):
                    last = max(last, record.history.step.num)
    except Exception as error:  # of another version of the package
        log.info('the offline files of wandb cannot be read: %s', error)
        return None
    return last


def _entries(content: bytes) -> Iterator[bytes]:
    """Yields the entries of a file in LevelDB's log format, up to one that is cut.

    Blocks have the parts of entries: four bytes of checksum, two of length, one that is 1 for a
    whole entry, 2 for its first part, 3 for a further one, 4 for its last.
    """
    at, entry = _HEAD, b''
    while at + _PART <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _PART:
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], 'little'), content[at + 6]
        part = content[at + _PART : at + _PART + size]
        at += _PART + size
        if not kind or len(part) < size:
            return
        entry = part if kind in (1, 2) else entry + part
        if kind in (1, 4):
            yield entry

"""Opening the loggers of a run, new or continued."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cls.errors import UserError
from cls.run.loggers import spec as specs
from cls.run.loggers import tensorboard
from cls.run.loggers.base import Logger, Place
from cls.run.loggers.service import Service
from cls.run.loggers.spec import LogSpec
from cls.storage import paths

FILE = 'loggers.json'  # name of a service -> {'id': of its run, 'logged': name -> last step}
log = logging.getLogger(__name__)


def files(spec: LogSpec, workdir: Path, folder: Path, step: int) -> list[Logger]:
    """Returns the loggers with files in the run folder.

    Args:
      spec: the loggers.
      workdir: the run folder.
      folder: the folder to write to, see `Place`.
      step: the run continues after this step.
    """
    place = Place(workdir, folder, step)
    return [specs.module(name).open_logger(place) for name in spec.files]


def how_to_view(spec: LogSpec, workdir: Path) -> Iterator[str]:
    """Yields a line on how to look at the files of each logger of the run folder."""
    if 'tensorboard' in spec.to:
        yield tensorboard.how_to_view(workdir)


def services(
    spec: LogSpec,
    workdir: Path,
    step: int,
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> list[Service]:
    """Returns the loggers of services, and writes their ids to the run folder.

    Args:
      spec: the loggers.
      workdir: the run folder.
      step: the run continues after this step.
      config: dotted name -> value of each field.
      rows: the lines of metrics.jsonl, also those after `step`, of processes that were killed.

    Raises:
      UserError: a new run cannot be opened. For a run that continues it is a warning.
    """
    record, opened = _load(workdir / FILE), []
    for name in spec.services:
        before = record.get(name)
        try:
            place = Place(
                workdir, workdir, step, spec.project, config, before['id'] if before else ''
            )
            logger = specs.module(name).open_logger(place)
        except Exception as error:  # of any library
            problem = f'config.log.to {name}: {" ".join(str(error).split())[:300].rstrip(". ")}'
            if before is None:
                raise UserError(f'{problem}. Fix it, or leave {name} out.') from error
            log.warning('%s; nothing more is logged there.', problem)
            continue
        marks = _logged(before['logged'], rows, logger.last_step) if before else {}
        record[name] = {'id': logger.id, 'logged': marks}
        opened.append((name, logger))
    if opened:
        _save(workdir, record)
    earlier = [row for row in rows if row['step'] <= step]
    return [_service(name, logger, workdir, record, earlier) for name, logger in opened]


def _service(
    name: str,
    logger: Logger,
    workdir: Path,
    record: dict[str, Any],
    earlier: Sequence[Mapping[str, Any]],
) -> Service:
    def keep(logged: Mapping[str, int]) -> None:
        record[name]['logged'] = dict(logged)
        _save(workdir, record)

    return Service(name, logger, record[name]['logged'], keep, earlier)


def _logged(
    before: Mapping[str, int], rows: Sequence[Mapping[str, Any]], last: int | None
) -> dict[str, int]:
    """Returns the last step at which each name is in a service.

    It is taken to have all lines of metrics.jsonl, but nothing after its own last step.

    Args:
      before: the result for the process before.
      rows: the lines of metrics.jsonl.
      last: the last step that the service has; None: unknown.
    """
    marks = dict(before)
    for row in rows:
        marks |= {name: max(row['step'], marks.get(name, -1)) for name in row}
    return marks if last is None else {name: min(step, last) for name, step in marks.items()}


def _save(workdir: Path, record: Mapping[str, Any]) -> None:
    paths.write_whole(workdir / FILE, (json.dumps(record, indent=2) + '\n').encode())


def _load(file: Path) -> dict[str, Any]:
    """Returns the content of loggers.json; {} if it is missing or damaged."""
    try:
        record = paths.parse_json(file.read_bytes())
        return {
            name: {
                'id': str(each['id']),
                'logged': {key: int(step) for key, step in each['logged'].items()},
            }
            for name, each in record.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        log.warning('%s is damaged: its services get new runs.', file)
        return {}


def close(loggers: Sequence[Logger], failed: bool = False) -> None:
    """Closes loggers, all of them even if one raises an error."""
    errors = []
    for logger in loggers:
        try:
            logger.close(failed)
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]

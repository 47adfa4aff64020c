"""The history of a search, with one JSON line for each event; a search continues from it.

  {"asked": 3, "code": [0, 2, 1], "parents": [1], "genotype": ...}
  {"told": 3, "fitness": 0.93, "metrics": {"accuracy": 0.93, "seeds": [1234], "seconds": 4.1}}

A line is on the disk before the search acts on it. A killed process leaves at most an incomplete
last line, which is removed.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cls.errors import UserError
from cls.search.searcher import FAILED, Searcher, Trial
from cls.search.space import Code
from cls.storage import paths

FILE = 'history.jsonl'


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a trial."""

    trial: Trial
    fitness: float  # FAILED if the trial could not be evaluated
    metrics: Mapping[str, Any]  # accuracy, params, seconds, ...; of a failed trial, error


class History:
    """The results in the order of their arrival, optionally stored in a file."""

    def __init__(
        self, file: Path | None = None, genotype: Callable[[Code], Any] | None = None
    ) -> None:
        """Reads the events of the file.

        Args:
          file: the file of the events; None: they are not stored.
          genotype: code -> genotype as JSON, only for readers; a search continues from the codes.

        Raises UserError for a file that is not a history.
        """
        self.results: list[Result] = []
        self.pending: dict[int, Trial] = {}  # trials without a result
        self._file, self._genotype = file, genotype
        self._events = list(_read(file)) if file and file.exists() else []

    @property
    def recorded(self) -> int:
        """The number of results in the file, replayed or not."""
        return sum('told' in event for event in self._events)

    def replay(self, searcher: Searcher) -> None:
        """Brings a new searcher to the state after the last line of the history.

        Raises UserError if it asks for other trials, as another searcher or version does.
        """
        for event in self._events:
            if 'asked' in event:
                trial = searcher.ask()
                if trial is None or not _asked(trial).items() <= event.items():
                    raise UserError(
                        f'{self._file} is not of this search: trial {event["asked"]} was '
                        f'{event["code"]}, now it is {trial and list(trial.code)}. '
                        'Choose another --workdir.'
                    )
                self.pending[trial.number] = trial
            else:
                trial = self.pending.pop(event['told'])
                fitness = FAILED if event['fitness'] is None else event['fitness']
                self.results.append(Result(trial, fitness, event['metrics']))
                searcher.tell(trial, fitness)

    def ask(self, trial: Trial) -> None:
        """Records a trial whose evaluation starts."""
        self.pending[trial.number] = trial
        more = {'genotype': self._genotype(trial.code)} if self._genotype else {}
        self._write(_asked(trial) | more)

    def tell(self, result: Result) -> None:
        """Records the result of a trial."""
        del self.pending[result.trial.number]
        self.results.append(result)
        fitness = result.fitness if math.isfinite(result.fitness) else None
        number = result.trial.number
        self._write({'told': number, 'fitness': fitness, 'metrics': dict(result.metrics)})

    def best(self) -> Result | None:
        """Returns the result with the highest fitness, see `best`."""
        return best(self.results)

    def _write(self, event: dict[str, Any]) -> None:
        if self._file is None:
            return
        with self._file.open('a') as file:
            file.write(json.dumps(event) + '\n')
            file.flush()
            os.fsync(file.fileno())


def best(results: Iterable[Result]) -> Result | None:
    """Returns the first result with the highest fitness; None if all trials failed."""
    good = [result for result in results if result.fitness != FAILED]
    return max(good, key=lambda result: result.fitness, default=None)


def _asked(trial: Trial) -> dict[str, Any]:
    return {'asked': trial.number, 'code': list(trial.code), 'parents': list(trial.parents)}


def _is_event(event: Any) -> bool:
    """Whether a line has the form that `History` writes."""
    if not isinstance(event, dict):
        return False
    if 'asked' in event:
        return type(event['asked']) is int and isinstance(event.get('code'), list)
    has_result = type(event.get('told')) is int and 'fitness' in event
    is_number = isinstance(event.get('fitness'), (int, float, type(None)))
    return has_result and is_number and isinstance(event.get('metrics'), dict)


def _read(file: Path) -> Iterable[dict[str, Any]]:
    content = file.read_bytes()
    complete = content[: content.rfind(b'\n') + 1]
    if complete != content:  # its writer was killed
        os.truncate(file, len(complete))
    pending: set[int] = set()
    for number, line in enumerate(complete.splitlines(), 1):
        try:
            event = paths.parse_json(line)
            if not _is_event(event):
                raise ValueError(line)
            if 'asked' in event:
                pending.add(event['asked'])
            elif event['told'] not in pending:
                raise ValueError(line)
            else:
                pending.remove(event['told'])
        except ValueError as error:
            raise UserError(
                f'line {number} of {file} is not of a search: move the file away to start again.'
            ) from error
        yield event

"""What the trainer asks of a search that trains a supernet."""

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import NamedSharding

from cls.config import genotype_files
from cls.distributed import agreement
from cls.errors import UserError
from cls.models.registry import genotypes
from cls.nn import init
from cls.search.evaluators import table
from cls.search.supernets import report
from cls.steps.train_step import Recipe

ALPHA = 'alpha'  # where in a supernet's params its architecture's lie
FILE = 'genotype.json'


class Supernet(abc.ABC):
    """How a supernet is trained; config.search.supernet says which, with its fields."""

    @abc.abstractmethod
    def optimizer(self, rule: Callable[..., Any], params: Any) -> Any:
        """Returns what `make_train_step` takes, with `init(params)` that gives the state's part.

        Args:
          rule: (params, **changed fields of config.optim) -> the Optax rule of config.optim.
          params: of the supernet, or their shapes.
        """

    @abc.abstractmethod
    def make_train_step(
        self, model: nn.Module, optimizer: Any, recipe: Recipe, batch_sharding: NamedSharding
    ) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
        """Returns train_step(state, batch) as cls.steps.train_step.make_train_step does.

        The batch has another one under 'held', as large, for the architecture to learn from.
        """

    def finish(self, setup: Any, params: Any, workdir: Path) -> dict[str, Any]:
        """Writes the derived genotype to the run folder, and draws it and the course of the run.

        Returns what the result says of it.
        """
        search = setup.config.search
        genotype = setup.model.genotype(jax.device_get(params[ALPHA]))
        file = workdir / FILE
        if agreement.is_main_process():
            from cls.search import figures  # matplotlib is slow to import

            genotype_files.save(genotype, file)
            figures.draw(genotype, workdir / 'cell.png')
            figures.course(report.logged(workdir), workdir / 'curve.png')
        result = {'genotype': genotypes.plain(genotype)}
        agreement.print_once(f'genotype: {file}')
        if search.train_with:
            command = f'python -m cls.main --config {search.train_with}'
            agreement.print_once(f'train it: {command} --config.model.genotype={file}')
        return result | self.worth(search, genotype)

    def prepared(self, setup: Any) -> 'Supernet':
        """Returns what trains in a run's setup, which may know more than config.search.supernet.

        Raises UserError for a config that does not suit, and a missing table: it is looked at when
        all is over, which is late to find that it is not there.
        """
        check(setup.config)
        if setup.config.search.table:
            _rows(setup.config.search)
        return self

    def worth(self, search: Any, genotype: Any) -> dict[str, float]:
        """Returns what the result says of a genotype by config.search.table, if there is one."""
        if not search.table:
            return {}
        rows, truth = _rows(search), search.columns.truth
        return {'truth': rows[genotype][truth], 'truth_best': max(r[truth] for r in rows.values())}


def _rows(search: Any) -> dict[str, dict[str, float]]:
    columns = search.columns
    return table.read(Path(search.table), columns.key, frozenset({columns.truth}))


def check(config: Any) -> None:
    """Raises UserError for fields that a supernet's training has no use for."""
    for field, none in (('accumulate', 1), ('ema', 0.0), ('init', '')):
        if config[field] != none:
            raise UserError(
                f'config.{field} is {config[field]!r}: the training of a supernet takes {none!r}.'
            )


class Architecture(nn.Module):
    """Architecture parameters: a matrix (edges, operations) for each kind of cell, 1e-3 * N(0, 1).

    What they are is for the net to say; a softmax of a row weighs the operations of an edge.
    """

    edges: int
    operations: int
    kinds: tuple[str, ...] = ('normal', 'reduce')
    normal_init: Any = init.Normal(1e-3)
    reduce_init: Any = init.Normal(1e-3)

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        shape = (self.edges, self.operations)
        return {kind: self.param(kind, getattr(self, f'{kind}_init'), shape) for kind in self.kinds}

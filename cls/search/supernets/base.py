"""The training of a supernet in a run: the method that trains it, and the derived architecture.

It implements the interface of cls.steps.supernet. A method (DARTS, ProxylessNAS) has the update
rule and the step; the rest is common to all methods.
"""

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

import flax.linen as nn
import jax
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from cls.config import genotype_files
from cls.distributed import agreement
from cls.errors import refuse
from cls.models.registry import genotypes
from cls.nn import init
from cls.search.evaluators import table
from cls.search.supernets import report
from cls.steps.train_step import Recipe

ALPHA = 'alpha'  # the entry of a supernet's params with its architecture's
FILE = 'genotype.json'
UNUSED = (('accumulate', 1), ('ema', 0.0), ('init', ''))  # fields, and the one value they may have


@dataclasses.dataclass(frozen=True)
class SupernetSpec:
    """The part of a config that the training of a supernet reads, without its method's fields."""

    table: Path | None  # of the worth of architectures, or the cost of layers
    key: str  # the columns of the table
    truth: str
    train_with: str  # the config that trains the genotype, '' if none does
    model: str  # the name of the supernet
    precise_bn: float

    @classmethod
    def from_config(cls, config: ConfigDict) -> Self:
        """Returns the specification. Raises UserError for all fields that it does not support."""
        wrong = [
            f'config.{field} is {config[field]!r}: the training of a supernet takes {none!r}.'
            for field, none in UNUSED
            if config[field] != none
        ]
        refuse(wrong)
        search = config.search
        columns = search.get('columns', {})
        return cls(
            table=Path(search.table) if search.table else None,
            key=columns.get('key', ''),
            truth=columns.get('truth', ''),
            train_with=search.train_with,
            model=config.model.name,
            precise_bn=config.eval.precise_bn,
        )

    def rows(self) -> dict[str, dict[str, float]]:
        """Returns the truth of each genotype in the table, {} without one.

        Raises UserError as `table.read`.
        """
        return table.read(self.table, self.key, frozenset({self.truth})) if self.table else {}


class Method(abc.ABC):
    """The update rule, the step and the result of one paper's training, in a run."""

    @abc.abstractmethod
    def optimizer(self, rule: Callable[..., Any], params: Any) -> Any:
        """Returns the optimizer, see cls.steps.supernet.Supernet."""

    @abc.abstractmethod
    def make_train_step(
        self, model: nn.Module, optimizer: Any, recipe: Recipe, batch_sharding: NamedSharding
    ) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
        """Returns train_step(state, batch), see cls.steps.supernet.Supernet."""

    @abc.abstractmethod
    def worth(self, spec: SupernetSpec, genotype: Any, alpha: Any) -> dict[str, float]:
        """Returns the fields of the result on the worth of a genotype, derived from `alpha`."""


class Options(Protocol):
    """The method that config.search.supernet names, with its fields."""

    def prepared(
        self,
        spec: SupernetSpec,
        model: nn.Module,
        image_shape: tuple[int, int, int],
        to_steps: Callable[[str], int],
    ) -> Method:
        """Returns the method in a run.

        Raises UserError for an unsuitable config, and for a missing table, which otherwise would be
        noticed only at the end of the run, hours later.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class SupernetTraining:
    """The training of a supernet in a run, see cls.steps.supernet.Supernet."""

    method: Method
    model: nn.Module
    spec: SupernetSpec

    def optimizer(self, rule: Callable[..., Any], params: Any) -> Any:
        """Returns the method's optimizer."""
        return self.method.optimizer(rule, params)

    def make_train_step(
        self, model: nn.Module, optimizer: Any, recipe: Recipe, batch_sharding: NamedSharding
    ) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
        """Returns the method's train_step(state, batch)."""
        return self.method.make_train_step(model, optimizer, recipe, batch_sharding)

    def finish(self, params: Any, workdir: Path) -> dict[str, Any]:
        """Writes the derived genotype to the run folder, and plots it and the progress of the run.

        Returns the fields of the result on it.
        """
        alpha = jax.device_get(params[ALPHA])
        genotype = self.model.genotype(alpha)
        file = workdir / FILE
        if agreement.is_main_process():
            from cls.search import figures  # matplotlib is slow to import

            genotype_files.save(genotype, file)
            figures.draw(genotype, workdir / 'cell.png')
            figures.course(report.logged(workdir), workdir / 'curve.png')
        agreement.print_once(f'genotype: {file}')
        if self.spec.train_with:
            command = f'python -m cls.main --config {self.spec.train_with}'
            agreement.print_once(f'train it: {command} --config.model.genotype={file}')
        result = {'genotype': genotypes.plain(genotype)}
        return result | self.method.worth(self.spec, genotype, alpha)


class Architecture(nn.Module):
    """Architecture parameters: a matrix (edges, operations) for each kind of cell, 1e-3 * N(0, 1).

    Each supernet uses them in its own way; a softmax of a row gives the weights of an edge.
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

"""PNAS: cells grow by one block at a time, and a predictor chooses which are worth a training.

Liu et al. 2018 (https://arxiv.org/abs/1712.00559), algorithm 1. The paper's text was not at hand:
its steps and numbers are from memory, see cls.search.searchers.predictors too. The paper is silent,
as far as is known, on two things: that a cell may be made in several orders of its blocks (of these
only the one is taken that the predictor likes best) and that trainings fail (such a cell neither
grows nor is learned from).

Small cells must say something of the large ones that grow from them. Digits of a tabular
benchmark's name, filled in one by one, do not: with the rest at some default they are other nets,
whose accuracies hardly predict those of the full ones. So the tabular spaces have no `expand`.
"""

import collections

import numpy as np

from cls.errors import UserError, nearest
from cls.search.searcher import FAILED, Proposal, Searcher, Trial
from cls.search.searchers import predictors
from cls.search.space import Code
from cls.search.spaces.cells import PNASNetCells

PREDICTORS = (*predictors.NETS, 'ridge')


class Progressive(Searcher):
    """All cells of one block; then, of all that grow from the last ones, those predicted best.

    With 8 operations and 5 blocks, 136 + 4 * 256 = 1,160 trials, after which there are none. No
    trial of a level is asked for before all of the last are told; in what order changes nothing.
    The paper's result is the best of the last level.
    """

    needs = ('expand',)
    space: PNASNetCells

    def __init__(
        self,
        space: PNASNetCells,
        seed: int,
        beam: int = 256,
        predictor: str = 'mlp',
        ensemble: int = 5,
        first_learning_rate: float = 0.01,
        learning_rate: float = 0.002,
        steps: int = 500,
    ) -> None:
        """Sets the hyperparameters; defaults are the paper's.

        Args:
          space: to search; its `nodes` are the paper's blocks.
          seed: of all randomness.
          beam: cells of each level but the first [K].
          predictor: 'mlp' or 'lstm'; 'ridge', which is not the paper's.
          ensemble: nets that predict together.
          first_learning_rate: of nets that have seen the first level alone.
          learning_rate: of the others.
          steps: of training a net, not known of the paper.

        Raises UserError for other values.
        """
        super().__init__(space, seed)
        if predictor not in PREDICTORS:
            raise UserError(
                f'config.search.searcher.predictor is {predictor!r}; known: '
                f'{", ".join(PREDICTORS)}.{nearest(predictor, PREDICTORS)}'
            )
        if min(beam, ensemble, steps) < 1 or min(first_learning_rate, learning_rate) <= 0:
            raise UserError(
                f'config.search.searcher: beam {beam}, ensemble {ensemble}, steps {steps}, rates '
                f'{first_learning_rate} and {learning_rate}: expected 1 or more, and above 0.'
            )
        self.beam, self.predictor, self.ensemble = beam, predictor, ensemble
        self.rates, self.steps = (first_learning_rate, learning_rate), steps
        self._queue = collections.deque[Proposal]((code, ()) for code in space.expand(()))
        self._level = len(self._queue)  # trials of the level that are not told
        self._results: list[tuple[Trial, float]] = []

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        return self._queue.popleft() if self._queue else None

    def observe(self, trial: Trial, fitness: float, rng: np.random.Generator) -> None:
        self._results.append((trial, fitness))
        self._level -= 1
        if self._level == 0:
            self._results.sort(key=lambda result: result[0].number)
            largest = len(trial.code)
            grown = [t for t, f in self._results if len(t.code) == largest and f != FAILED]
            if grown and largest < 4 * self.space.nodes:
                self._queue.extend(self._best(grown, rng))
            self._level = len(self._queue)

    def fit(self, rng: np.random.Generator) -> predictors.Predict:
        """Returns a predictor that has seen all that was told."""
        good = [(trial.code, fitness) for trial, fitness in self._results if fitness != FAILED]
        codes, accuracies = zip(*good, strict=True)
        cells, accuracies = self._cells(codes), np.array(accuracies)
        operations = len(self.space.operations)
        if self.predictor == 'ridge':
            return predictors.fit_ridge(cells, accuracies, operations)
        return predictors.fit(
            self.predictor,
            cells,
            accuracies,
            operations,
            rng,
            members=self.ensemble,
            steps=self.steps,
            rate=self.rates[len(codes[-1]) > 4],
        )

    def _best(self, parents: list[Trial], rng: np.random.Generator) -> list[Proposal]:
        """Returns the next level: of what grows from the parents, what is predicted best."""
        predict = self.fit(rng)
        children = [list(self.space.expand(parent.code)) for parent in parents]
        origins = np.repeat([parent.number for parent in parents], [*map(len, children)])
        codes = [code for siblings in children for code in siblings]
        best: dict[object, Proposal] = {}
        for place in np.argsort(-predict(self._cells(codes)), kind='stable'):
            if len(best) == self.beam:
                break
            best.setdefault(self.space.key(codes[place]), (codes[place], (int(origins[place]),)))
        return list(best.values())

    def _cells(self, codes: list[Code]) -> np.ndarray:
        """Returns codes as predictors have them."""
        cells = np.full((len(codes), 4 * self.space.nodes), -1, np.int8)
        for length in {*map(len, codes)}:
            rows = [len(code) == length for code in codes]
            cells[rows, :length] = [code for code in codes if len(code) == length]
        return cells.reshape(len(codes), -1, 4)

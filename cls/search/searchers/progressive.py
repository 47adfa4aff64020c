"""PNAS: cells grow by one block at a time, and a predictor chooses the cells to train.

Liu et al. 2018 (https://arxiv.org/abs/1712.00559), algorithm 1. The paper's text was not available
to us: its steps and numbers are from memory, as in cls.search.searchers.predictors. As far as is
known, the paper does not mention two cases. A cell may arise with its blocks in several orders:
this search takes the order with the highest prediction. A training may fail: such a cell neither
grows nor trains the predictor.

A search that grows needs small cells that predict the large ones. A tabular benchmark does not have
them: a prefix of a name, filled up with a default operation, is another network, whose accuracy
hardly predicts that of the others. So the tabular spaces have no `expand`.
"""

import collections

import numpy as np

from cls.errors import nearest, refuse
from cls.search.searcher import FAILED, Proposal, Searcher, Trial
from cls.search.searchers import predictors
from cls.search.space import Code
from cls.search.spaces.cells import PNASNetCells

PREDICTORS = (*predictors.NETS, 'ridge')


class Progressive(Searcher):
    """All cells of one block; then, level by level, the best predicted of their expansions.

    With 8 operations and 5 blocks these are 136 + 4 * 256 = 1,160 trials. A level is asked for only
    after all results of the one before, in any order. The paper's result is the best of the last
    level.
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
          space: the space to search; its `nodes` are the paper's blocks.
          seed: the seed of all randomness.
          beam: cells of each level after the first [K].
          predictor: 'mlp' or 'lstm'; 'ridge' is not the paper's.
          ensemble: number of networks, whose predictions are averaged.
          first_learning_rate: learning rate of networks that see only the first level.
          learning_rate: learning rate of later networks.
          steps: training steps of a network; the paper's number is not known.

        Raises UserError for other values.
        """
        super().__init__(space, seed)
        mistakes = []
        if predictor not in PREDICTORS:
            mistakes.append(
                f'config.search.searcher.predictor is {predictor!r}; known: '
                f'{", ".join(PREDICTORS)}.{nearest(predictor, PREDICTORS)}'
            )
        if min(beam, ensemble, steps) < 1 or min(first_learning_rate, learning_rate) <= 0:
            mistakes.append(
                f'config.search.searcher: beam {beam}, ensemble {ensemble}, steps {steps}, rates '
                f'{first_learning_rate} and {learning_rate}: expected 1 or more, and above 0.'
            )
        refuse(mistakes)
        self.beam, self.predictor, self.ensemble = beam, predictor, ensemble
        self.rates, self.steps = (first_learning_rate, learning_rate), steps
        self._queue = collections.deque[Proposal]((code, ()) for code in space.expand(()))
        self._level = len(self._queue)  # trials of the level without a result
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
        """Returns a predictor trained on all results."""
        good = [(trial.code, fitness) for trial, fitness in self._results if fitness != FAILED]
        cells = self._cells([code for code, _ in good])
        accuracies = np.array([fitness for _, fitness in good])
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
            rate=self.rates[len(good[-1][0]) > 4],
        )

    def _best(self, parents: list[Trial], rng: np.random.Generator) -> list[Proposal]:
        """Returns the next level: the best predicted of all expansions of the parents."""
        predict = self.fit(rng)
        children = [list(self.space.expand(parent.code)) for parent in parents]
        origins = np.repeat([parent.number for parent in parents], [*map(len, children)])
        codes = [code for siblings in children for code in siblings]
        best: dict[object, Proposal] = {}
        for index in np.argsort(-predict(self._cells(codes)), kind='stable'):
            if len(best) == self.beam:
                break
            best.setdefault(self.space.key(codes[index]), (codes[index], (int(origins[index]),)))
        return list(best.values())

    def _cells(self, codes: list[Code]) -> np.ndarray:
        """Returns codes as the integers that predictors take."""
        cells = np.full((len(codes), 4 * self.space.nodes), -1, np.int8)
        for length in {*map(len, codes)}:
            rows = [len(code) == length for code in codes]
            cells[rows, :length] = [code for code in codes if len(code) == length]
        return cells.reshape(len(codes), -1, 4)

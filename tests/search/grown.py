"""Small cells that grow, and a formula for their accuracy."""

import math

import numpy as np

from cls.search.space import Code
from cls.search.spaces.cells import PNASNetCells

SPACE = PNASNetCells(('sep_3x3', 'sep_5x5', 'identity', 'max_3x3'), nodes=3)
WORTH = {'sep_3x3': 0.6, 'sep_5x5': 0.3, 'identity': -0.1, 'max_3x3': -0.5}


def accuracy(code: Code) -> float:
    """The operations, the states they read, and the number of concatenated states."""
    cell = SPACE.genotype(code)
    worth = [0.0, -0.3]
    for (op, state), (other, second) in cell.nodes:
        node = 0.35 * (worth[state] + worth[second]) + WORTH[op] + WORTH[other]
        worth.append(node + 0.2 * (op != other))
    mean = np.mean([worth[state] for state in cell.concat])
    return 1 / (1 + math.exp(-mean - 0.15 * len(cell.concat)))


def cells(codes: list[Code], nodes: int) -> np.ndarray:
    """Returns codes as the integers that predictors take."""
    rows = np.full((len(codes), nodes, 4), -1)
    for row, code in zip(rows, codes, strict=True):
        row[: len(code) // 4] = np.reshape(code, (-1, 4))
    return rows

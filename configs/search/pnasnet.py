"""PNASNet's search, by growing cells (Liu et al. 2018, https://arxiv.org/abs/1712.00559).

  python -m cls.main --config configs/search/pnasnet.py           small, on embedded digits
  python -m cls.main --config configs/search/pnasnet.py:paper     the paper's, on CIFAR-10

ARM,random is random search of cells with all blocks. To train the result:

  python -m cls.main --config configs/pnasnet.py --config.model.genotype=RUN/genotype.json

The surrogate predicts networks from smaller ones, and the tabular benchmarks have no smaller ones:
see cls/search/searchers/progressive.py. The paper's result is the best cell of the last level; the
result of a run is the best of all levels and may have fewer blocks.

Measurements: configs/search/README.md. Published, not reproduced here: 1,160 models in about 225
GPU-days (from memory); after full training the best reaches 96.59 % on CIFAR-10.
"""

from ml_collections import ConfigDict

from cls.recipes import pnasnet
from cls.recipes.search import common
from cls.search import registry


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits or paper."""
    return common.resolve(argument, digits=digits, paper=paper)


def digits(c: ConfigDict) -> None:
    """Cells of up to 3 blocks, 4 operations, K = 12, N = 1, F = 8: 36 + 12 + 12 networks."""
    operations = ('sep_3x3', 'identity', 'avg_3x3', 'max_3x3')
    c.search.space = registry.defaults('space', 'pnasnet', operations=operations, nodes=3)
    c.search.searcher = registry.defaults('searcher', 'progressive', beam=12)
    c.search.evaluations = 60
    common.use_digits_proxy(c, pnasnet)
    common.use_plain_cells(c, 8)
    c.proxy.duration, c.proxy.schedule.warmup = '5 epochs', '1 epochs'


def paper(c: ConfigDict) -> None:
    """CIFAR-10, N = 2, F = 24, 20 epochs, rate 0.01, 5,000 validation images; 1,160 networks.

    All from memory. The results of a level are reported in any order, without effect on the search.
    The rest of the recipe is that of the large networks, without drop path and auxiliary head.
    """
    c.search.space = registry.defaults('space', 'pnasnet')
    c.search.searcher = registry.defaults('searcher', 'progressive')
    c.search.evaluations, c.search.max_concurrent = 136 + 4 * 256, 100
    c.search.engine, c.search.gpus, c.search.synchronous = 'ray', 1.0, False
    common.use_proxy(c, pnasnet, 'cifar10')
    common.use_plain_cells(c, 24)
    c.proxy.model.cells = 2
    c.proxy.optim.lr = 0.01
    c.proxy.duration = '20 epochs'

"""hier's search, evolution without death (Liu et al. 2018, https://arxiv.org/abs/1711.00436).

  python -m cls.main --config configs/search/hier.py           small, on embedded digits
  python -m cls.main --config configs/search/hier.py:paper     the paper's, on CIFAR-10
  python -m cls.main --config configs/search/hier.py:nasbench201 --config.search.table=FILE
  python -m cls.main --config configs/search/hier.py:macro --config.search.table=FILE

ARM,random is random search with the same settings. To train the result:

  python -m cls.main --config configs/hier.py --config.model.genotype=RUN/genotype.json

Measured over 100 seeds: better than random search after 500 evaluations by 0.28 % on NAS-Bench-201
and by 0.13 % on NAS-Bench-Macro. Published, not reproduced here: 7,000 networks in 1.5 days on 200
P100 GPUs; after full training the best reaches 96.25 % on CIFAR-10.
"""

from ml_collections import ConfigDict

from cls.recipes import hier
from cls.recipes.search import common
from cls.search import registry

EVOLUTION = {'population': 200, 'fraction': 0.05, 'remove': 'none'}


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper, nasbench201 or macro."""
    return common.resolve(
        argument, digits=digits, paper=paper, nasbench201=nasbench201, macro=macro
    )


def digits(c: ConfigDict) -> None:
    """A cell of 3 nodes from 3 motifs of 3 nodes; 60 networks, the first 20 at random.

    With so small a population, a tournament takes a larger part of it.
    """
    c.search.space = registry.defaults('space', 'hier', motifs=(3, 1), nodes=(3, 3))
    evolution = EVOLUTION | {'population': 20, 'fraction': 0.15}
    c.search.searcher = registry.defaults('searcher', 'evolution', **evolution)
    c.search.evaluations = 60
    common.use_digits_proxy(c, hier)
    c.proxy.model.features = 16
    c.proxy.duration, c.proxy.schedule.warmup = '5 epochs', '1 epochs'


def paper(c: ConfigDict) -> None:
    """Section 4: CIFAR-10, 3 cells, 16 channels, 5,000 steps; 7,000 networks, 200 at a time.

    All from later papers or from memory: the fitness is the mean of four trainings. The steps of
    the rate are in proportion to the full training's.
    """
    c.search.space = registry.defaults('space', 'hier')
    c.search.searcher = registry.defaults('searcher', 'evolution', **EVOLUTION)
    c.search.evaluations, c.search.max_concurrent = 7000, 200
    c.search.engine, c.search.gpus, c.search.synchronous = 'ray', 1.0, False
    common.use_proxy(c, hier, 'cifar10')
    c.search.evaluator.repeats = 4
    c.proxy.model.features, c.proxy.model.cells = 16, 1
    c.proxy.duration = '5000 steps'
    c.proxy.schedule.milestones = ('2500 steps', '3750 steps', '4375 steps')


def nasbench201(c: ConfigDict) -> None:
    """The paper's population, tournaments of 5 %; a mutation resamples an edge."""
    common.use_nasbench201(c)
    c.search.searcher = registry.defaults('searcher', 'evolution', **EVOLUTION)


def macro(c: ConfigDict) -> None:
    """The settings of `nasbench201`; a mutation resamples a layer."""
    common.use_macro(c)
    c.search.searcher = registry.defaults('searcher', 'evolution', **EVOLUTION)

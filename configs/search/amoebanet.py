"""AmoebaNet's search, regularized evolution (Real et al. 2019, https://arxiv.org/abs/1802.01548).

  python -m cls.main --config configs/search/amoebanet.py           small, on embedded digits
  python -m cls.main --config configs/search/amoebanet.py:paper     the paper's, on CIFAR-10
  python -m cls.main --config configs/search/amoebanet.py:nasbench201 --config.search.table=FILE
  python -m cls.main --config configs/search/amoebanet.py:macro --config.search.table=FILE
  python -m cls.main --config configs/search/amoebanet.py:mnasnet_table --config.search.table=FILE

ARM,random is random search with the same settings. To train the result:

  python -m cls.main --config configs/amoebanet.py --config.model.genotype=RUN/genotype.json

Measurements: configs/search/README.md. Published, not reproduced here: 20,000 models in 7 days on
450 K40 GPUs; after full training the best reach 96.6 % on CIFAR-10.
"""

from ml_collections import ConfigDict

from cls.recipes import amoebanet
from cls.recipes.search import common, mnasnet
from cls.search import registry


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper, nasbench201, macro or mnasnet_table."""
    return common.resolve(
        argument,
        digits=digits,
        paper=paper,
        nasbench201=nasbench201,
        macro=macro,
        mnasnet_table=mnasnet_table,
    )


def digits(c: ConfigDict) -> None:
    """2 nodes, two stacks of one normal cell, F = 8; 50 networks, population 20, sample 5."""
    c.search.space = registry.defaults('space', 'amoebanet', nodes=2)
    c.search.searcher = registry.defaults('searcher', 'evolution', population=20, sample=5)
    c.search.evaluations = 50
    common.use_digits_proxy(c, amoebanet)
    common.use_plain_cells(c, 8)
    c.proxy.model.stacks = 2
    c.proxy.duration, c.proxy.schedule.warmup = '5 epochs', '1 epochs'


def paper(c: ConfigDict) -> None:
    """Section 4: CIFAR-10, N = 3, F = 24, 25 epochs, 5,000 validation images; 20,000 networks.

    450 at a time, each reported when it is done. The paper does not give the whole recipe of these
    small networks: here it is that of the large ones, without drop path and auxiliary head.
    """
    c.search.space = registry.defaults('space', 'amoebanet')
    c.search.searcher = registry.defaults('searcher', 'evolution')
    c.search.evaluations, c.search.max_concurrent = 20_000, 450
    c.search.engine, c.search.gpus, c.search.synchronous = 'ray', 1.0, False
    common.use_proxy(c, amoebanet, 'cifar10')
    common.use_plain_cells(c, 24)
    c.proxy.model.cells = 3
    c.proxy.duration = '25 epochs'


def nasbench201(c: ConfigDict) -> None:
    """The paper's population and sample."""
    common.use_nasbench201(c)
    c.search.searcher = registry.defaults('searcher', 'evolution')


def macro(c: ConfigDict) -> None:
    """The paper's population and sample."""
    common.use_macro(c)
    c.search.searcher = registry.defaults('searcher', 'evolution')


def mnasnet_table(c: ConfigDict) -> None:
    """The paper's population and sample, with MnasNet's reward of accuracy and latency."""
    mnasnet.mnasnet_table(c)
    c.search.searcher = registry.defaults('searcher', 'evolution')

"""AmoebaNet's search, regularized evolution (Real et al. 2019, https://arxiv.org/abs/1802.01548).

  python -m cls.main --config configs/search/amoebanet.py           small nets on embedded digits
  python -m cls.main --config configs/search/amoebanet.py:paper     the paper's, on CIFAR-10
  python -m cls.main --config configs/search/amoebanet.py:nasbench201 --config.search.table=FILE
  python -m cls.main --config configs/search/amoebanet.py:macro --config.search.table=FILE
  python -m cls.main --config configs/search/amoebanet.py:mnasnet_table --config.search.table=FILE

ARM,random in the place of an arm searches the same at random. What a search finds is trained by

  python -m cls.main --config configs/amoebanet.py --config.model.genotype=RUN/genotype.json

Expected: see configs/search/README.md for what was measured. The paper's, which has not been run
here: 20,000 models in 7 days of 450 K40 GPUs, the best of which reach 96.6 % on CIFAR-10 when they
are trained in full.
"""

from ml_collections import ConfigDict

from cls.search import registry
from configs import amoebanet
from configs.search import common, mnasnet


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
    """Cells of 2 nodes, two stacks of one normal cell, F = 8; 50 nets, population 20, sample 5."""
    c.search.space = registry.defaults('space', 'amoebanet', nodes=2)
    c.search.searcher = registry.defaults('searcher', 'evolution', population=20, sample=5)
    c.search.evaluations = 50
    common.use_digits_proxy(c, amoebanet)
    common.use_plain_cells(c, 8)
    c.proxy.model.stacks = 2
    c.proxy.duration, c.proxy.schedule.warmup = '5 epochs', '1 epochs'


def paper(c: ConfigDict) -> None:
    """Section 4: CIFAR-10, N = 3, F = 24, 25 epochs, 5,000 images kept to evaluate; 20,000 nets.

    450 at a time, told as soon as they are done. How these small nets are trained the paper does
    not say in full: as the large ones here, without their drop path and auxiliary head.
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

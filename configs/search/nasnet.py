"""NASNet's search (Zoph et al. 2018, https://arxiv.org/abs/1707.07012): a controller and PPO.

  python -m cls.main --config configs/search/nasnet.py            small, on embedded digits
  python -m cls.main --config configs/search/nasnet.py:paper      the paper's, on CIFAR-10
  python -m cls.main --config configs/search/nasnet.py:nasbench201 --config.search.table=FILE
  python -m cls.main --config configs/search/nasnet.py:macro --config.search.table=FILE

ARM,random is random search with the same settings. To train the result:

  python -m cls.main --config configs/nasnet.py --config.model.genotype=RUN/genotype.json

Measurements: configs/search/README.md. Published, not reproduced here: 20,000 models in 4 days on
500 P100 GPUs; after full training the best reaches 97.35 % on CIFAR-10 (with cutout).
"""

from ml_collections import ConfigDict

from cls.recipes import nasnet
from cls.recipes.search import common
from cls.search import registry

# At the paper's rate the controller hardly moves, and 60 networks are too few to train an LSTM.
SHORT = {'learning_rate': 3.5e-3}
SHORTEST = {'controller': 'factorised', 'learning_rate': 0.1, 'batch': 5}


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper, nasbench201 or macro."""
    return common.resolve(
        argument, digits=digits, paper=paper, nasbench201=nasbench201, macro=macro
    )


def digits(c: ConfigDict) -> None:
    """Cells of 2 nodes, two stacks of one normal cell, F = 8; 40 networks."""
    c.search.space = registry.defaults('space', 'nasnet', nodes=2)
    c.search.searcher = registry.defaults('searcher', 'policy_gradient', **SHORTEST)
    c.search.evaluations = 40
    common.use_digits_proxy(c, nasnet)
    common.use_plain_cells(c, 8)
    c.proxy.model.stacks = 2
    c.proxy.duration, c.proxy.schedule.warmup = '5 epochs', '1 epochs'


def paper(c: ConfigDict) -> None:
    """Section 3: CIFAR-10, N = 2, F = 32, 20 epochs, 5,000 validation images; 20,000 networks.

    500 at a time, each reported when it is done. The recipe of these small networks is from memory:
    that of the large ones, without drop path and auxiliary head.
    """
    c.search.space = registry.defaults('space', 'nasnet')
    c.search.searcher = registry.defaults('searcher', 'policy_gradient')
    c.search.evaluations, c.search.max_concurrent = 20_000, 500
    c.search.engine, c.search.gpus, c.search.synchronous = 'ray', 1.0, False
    common.use_proxy(c, nasnet, 'cifar10')
    common.use_plain_cells(c, 32)
    c.proxy.model.cells = 2
    c.proxy.duration = '20 epochs'


def nasbench201(c: ConfigDict) -> None:
    """The paper's controller, with a rate for 25 batches instead of the paper's 1,000."""
    common.use_nasbench201(c)
    c.search.searcher = registry.defaults('searcher', 'policy_gradient', **SHORT)


def macro(c: ConfigDict) -> None:
    """The paper's controller, with a rate for 25 batches instead of the paper's 1,000."""
    common.use_macro(c)
    c.search.searcher = registry.defaults('searcher', 'policy_gradient', **SHORT)

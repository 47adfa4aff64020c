"""NASNet's search (Zoph et al. 2018, https://arxiv.org/abs/1707.07012): a controller and PPO.

  python -m cls.main --config configs/search/nasnet.py            small nets on embedded digits
  python -m cls.main --config configs/search/nasnet.py:paper      the paper's, on CIFAR-10
  python -m cls.main --config configs/search/nasnet.py:nasbench201 --config.search.table=FILE
  python -m cls.main --config configs/search/nasnet.py:macro --config.search.table=FILE

ARM,random in the place of an arm searches the same at random. What a search finds is trained by

  python -m cls.main --config configs/nasnet.py --config.model.genotype=RUN/genotype.json

Expected: see configs/search/README.md for what was measured. The paper's, which has not been run
here: 20,000 models in 4 days of 500 P100 GPUs, the best of which reaches 97.35 % on CIFAR-10 (with
cutout) when it is trained in full.
"""

from ml_collections import ConfigDict

from cls.search import registry
from configs import nasnet
from configs.search import common

# With the paper's rate the controller would hardly move; of 60 nets an LSTM learns too little.
SHORT = {'learning_rate': 3.5e-3}
SHORTEST = {'controller': 'factorised', 'learning_rate': 0.1, 'batch': 5}


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper, nasbench201 or macro."""
    return common.resolve(
        argument, digits=digits, paper=paper, nasbench201=nasbench201, macro=macro
    )


def digits(c: ConfigDict) -> None:
    """Cells of 2 nodes, two stacks of one normal cell, F = 8; 40 nets."""
    c.search.space = registry.defaults('space', 'nasnet', nodes=2)
    c.search.searcher = registry.defaults('searcher', 'policy_gradient', **SHORTEST)
    c.search.evaluations = 40
    common.use_digits_proxy(c, nasnet)
    common.use_plain_cells(c, 8)
    c.proxy.model.stacks = 2
    c.proxy.duration, c.proxy.schedule.warmup = '5 epochs', '1 epochs'


def paper(c: ConfigDict) -> None:
    """Section 3: CIFAR-10, N = 2, F = 32, 20 epochs, 5,000 images kept to evaluate; 20,000 nets.

    500 at a time, told as soon as they are done. How these small nets are trained is from memory:
    as the large ones here, without their drop path and auxiliary head.
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
    """The paper's controller, with a rate for 25 batches where the paper has 1,000."""
    common.use_nasbench201(c)
    c.search.searcher = registry.defaults('searcher', 'policy_gradient', **SHORT)


def macro(c: ConfigDict) -> None:
    """The paper's controller, with a rate for 25 batches where the paper has 1,000."""
    common.use_macro(c)
    c.search.searcher = registry.defaults('searcher', 'policy_gradient', **SHORT)

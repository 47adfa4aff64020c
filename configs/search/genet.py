"""GeNet's search, a genetic algorithm (Xie & Yuille 2017, https://arxiv.org/abs/1703.01513).

  python -m cls.main --config configs/search/genet.py           small, on embedded digits
  python -m cls.main --config configs/search/genet.py:paper     the paper's, on CIFAR-10
  python -m cls.main --config configs/search/genet.py:nasbench201 --config.search.table=FILE
  python -m cls.main --config configs/search/genet.py:macro --config.search.table=FILE

ARM,random is random search with the same settings. To train the result:

  python -m cls.main --config configs/genet.py --config.model.genotype=RUN/genotype.json

Measured: better than random search by 0.09 % after 500 evaluations on NAS-Bench-Macro (50 seeds),
no better on NAS-Bench-201 (150 seeds). A code of NAS-Bench-201 has six decisions, the paper's has
19 bits: at the paper's rates few decisions change, and only about 105 of 500 evaluations are of
different networks. Published, not reproduced here: 17 GPU-days (from memory); the best code, with
64, 128 and 256 filters, reaches 92.9 % on CIFAR-10.
"""

from ml_collections import ConfigDict

from cls.recipes import genet
from cls.recipes.search import common
from cls.search import registry


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper, nasbench201 or macro."""
    return common.resolve(
        argument, digits=digits, paper=paper, nasbench201=nasbench201, macro=macro
    )


def digits(c: ConfigDict) -> None:
    """Two stages of 3 and 4 nodes, 512 codes; six generations of 10, with the rates for MNIST.

    The paper's networks for MNIST also have two stages, of 13 bits; these have 9.
    """
    c.search.space = registry.defaults('space', 'genet', nodes=(3, 4))
    c.search.searcher = registry.defaults(
        'searcher', 'genetic', population=10, crossover_rate=0.3, mutation_rate=0.1
    )
    c.search.evaluations = 60
    common.use_digits_proxy(c, genet)
    c.proxy.model.widths = (8, 16)
    c.proxy.duration, c.proxy.schedule.warmup = '10 epochs', '1 epochs'


def paper(c: ConfigDict) -> None:
    """Section 4.2: CIFAR-10, 51 generations of 20, one generation at a time.

    Networks of 8, 16 and 32 filters and 128 hidden units, 240 epochs; 10,000 images are for
    validation (all from memory, or as in gentun).
    """
    c.search.space = registry.defaults('space', 'genet')
    c.search.searcher = registry.defaults('searcher', 'genetic')
    c.search.evaluations, c.search.max_concurrent = 20 * (1 + 50), 20
    c.search.engine, c.search.gpus = 'ray', 1.0
    common.use_proxy(c, genet, 'cifar10')
    c.proxy.data.train_split, c.proxy.data.eval_split = 'train[:40000]', 'train[40000:]'
    c.proxy.model.widths, c.proxy.model.hidden = (8, 16, 32), (128,)


def nasbench201(c: ConfigDict) -> None:
    """The paper's generations and rates; each edge is a stage."""
    common.use_nasbench201(c)
    c.search.searcher = registry.defaults('searcher', 'genetic')


def macro(c: ConfigDict) -> None:
    """The paper's generations and rates; each layer is a stage."""
    common.use_macro(c)
    c.search.searcher = registry.defaults('searcher', 'genetic')

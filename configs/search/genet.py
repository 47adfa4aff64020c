"""GeNet's search, a genetic algorithm (Xie & Yuille 2017, https://arxiv.org/abs/1703.01513).

  python -m cls.main --config configs/search/genet.py           small nets on embedded digits
  python -m cls.main --config configs/search/genet.py:paper     the paper's, on CIFAR-10
  python -m cls.main --config configs/search/genet.py:nasbench201 --config.search.table=FILE
  python -m cls.main --config configs/search/genet.py:macro --config.search.table=FILE

ARM,random in the place of an arm searches the same at random. What a search finds is trained by

  python -m cls.main --config configs/genet.py --config.model.genotype=RUN/genotype.json

Expected: on NAS-Bench-Macro better than random search by 0.09 % after 500 evaluations, on
NAS-Bench-201 no better, measured over 50 and 150 seeds. There a code has six decisions where the
paper has 19 bits: with its rates hardly any of an individual's changes, so that of 500 evaluations
about 105 are of different nets. The paper's, which has not been run here: 17 GPU-days (from
memory), after which the best code, with 64, 128 and 256 filters, reaches 92.9 % on CIFAR-10.
"""

from ml_collections import ConfigDict

from cls.search import registry
from configs import genet
from configs.search import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper, nasbench201 or macro."""
    return common.resolve(
        argument, digits=digits, paper=paper, nasbench201=nasbench201, macro=macro
    )


def digits(c: ConfigDict) -> None:
    """Two stages of 3 and 4 nodes, 512 codes; six generations of 10, with the rates for MNIST.

    The paper's nets for MNIST have two stages too, of 13 bits; here there are 9.
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
    """Section 4.2: CIFAR-10, a first generation of 20 and 50 more; a generation at a time.

    Nets of 8, 16 and 32 filters and 128 hidden units, 240 epochs; 10,000 images are kept to
    evaluate (all from memory, or as gentun has it).
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

"""DARTS's search (Liu et al. 2019, https://arxiv.org/abs/1806.09055): a supernet's training.

  python -m cls.main --config configs/search/darts.py                  small, on embedded digits
  python -m cls.main --config configs/search/darts.py:paper            CIFAR-10, 50 epochs
  python -m cls.main --config configs/search/darts.py:nasbench201 --config.search.table=FILE

The order of alpha's gradient: --config.search.supernet.order=first, second or fd (the paper's
second order, by a difference). The run writes genotype.json at its end and prints the command that
trains it. metrics.jsonl has the entropy of alpha, the weight of `none`, and the skip connections of
the current derived cells. Evaluation is of the supernet, on the images that train alpha.

Published: the derived network's top-1 on CIFAR-10 97.00 +- 0.14 (first order), 97.24 +- 0.09
(second), after its own 600 epochs; it varies between seeds, so search with several. nasbench201:
the benchmark's authors report 54.30 on CIFAR-10 for both orders, a cell of skip connections.
"""

from ml_collections import ConfigDict

from cls.recipes import common
from cls.recipes.search.common import chosen
from cls.search import registry


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper or nasbench201."""
    c = common.base()
    c.search = ConfigDict()
    c.search.supernet = registry.defaults('supernet', 'darts')
    c.search.train_with = ''  # the config that trains a genotype
    # A CSV file with the accuracies of architectures, '' if none: see configs/search/README.md.
    c.search.table = ''
    c.search.columns = ConfigDict({'key': '', 'truth': ''})  # of the table
    chosen(argument, digits=digits, paper=paper, nasbench201=nasbench201)(c)
    return c


def digits(c: ConfigDict) -> None:
    """Three cells with two nodes; alpha's rate is ten times the paper's, for far fewer steps."""
    common.use_digits(c)
    _halves(c)
    c.model.name = 'darts_supernet'
    c.model.cells, c.model.filters, c.model.nodes = 3, 8, 2
    c.model.operations = ('none', 'max_pool_3x3', 'avg_pool_3x3', 'skip_connect')
    c.model.operations += ('sep_conv_3x3', 'dil_conv_3x3')
    _weights(c)
    c.duration = '30 epochs'
    c.search.supernet.lr = 3e-3
    c.search.train_with = 'configs/darts.py'


def paper(c: ConfigDict) -> None:
    """Section 3.1.1 and appendix A.1: half of CIFAR-10 for the weights, half for alpha."""
    common.use_cifar(c, 'cifar10')
    _halves(c)
    c.model.name = 'darts_supernet'
    _weights(c)
    c.duration = '50 epochs'
    c.search.train_with = 'configs/darts.py:cifar10'


def nasbench201(c: ConfigDict) -> None:
    """NAS-Bench-201's cells on CIFAR-10 with the same recipe; the derived cell is looked up."""
    common.use_cifar(c, 'cifar10')
    _halves(c)
    c.model.name = 'nasbench201_supernet'
    _weights(c)
    c.duration = '50 epochs'
    c.search.columns.key, c.search.columns.truth = 'ops', 'c10_test_200ep'


def _halves(c: ConfigDict) -> None:
    c.data.train_split, c.data.eval_split = 'train[:50%]', 'train[50%:]'


def _weights(c: ConfigDict) -> None:
    """Appendix A.1: SGD from 0.025 to 0.001 by a cosine, all parameters decayed, clipped at 5."""
    c.batch = 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.025, 0.9
    c.optim.weight_decay, c.optim.decay_mask, c.optim.clip_norm = 3e-4, 'all', 5.0
    c.schedule.name, c.schedule.end = 'cosine', 0.04
    c.log_every, c.eval.every = '1 epochs', '5 epochs'

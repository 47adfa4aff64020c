"""MnasNet's search (Tan et al. 2019, https://arxiv.org/abs/1807.11626): accuracy against latency.

  python -m cls.main --config configs/search/mnasnet.py           small, on embedded digits
  python -m cls.main --config configs/search/mnasnet.py:paper     the paper's, on ImageNet
  python -m cls.main --config configs/search/mnasnet.py:mnasnet_table --config.search.table=FILE

ARM,random is random search with the same settings. The reward is the soft trade-off; the hard one
is --config.search.objective.alpha=0 --config.search.objective.beta=-1. To train the result:

  python -m cls.main --config configs/mnasnet.py --config.model.genotype=RUN/genotype.json

Measurements: configs/search/README.md. Published, not reproduced here: 8,000 models in 4.5 days on
64 TPUs (v2), among them A1 with 75.2 % on ImageNet in 78 ms.
"""

from ml_collections import ConfigDict

from cls.recipes import mnasnet
from cls.recipes.search import common
from cls.recipes.search.nasnet import SHORT, SHORTEST
from cls.search import registry


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper or mnasnet_table."""
    return common.resolve(argument, digits=digits, paper=paper, mnasnet_table=mnasnet_table)


def digits(c: ConfigDict) -> None:
    """Three stages at 16 pixels; a quarter of the networks meets the target of multiply-adds.

    Multiply-adds are counted, so a run is reproducible. For milliseconds on this machine:

      --config.search.evaluator.name=train_latency --config.search.objective.metric=latency
      --config.search.objective.target=MILLISECONDS
    """
    c.search.space = registry.defaults(
        'space',
        'mnasnet',
        stem=16,
        strides=(1, 2, 1),
        widths=((16, 24), (16, 24, 32), (24, 32, 40)),
        repeats=((1,), (1, 2), (1, 2)),
    )
    c.search.searcher = registry.defaults('searcher', 'policy_gradient', **SHORTEST)
    c.search.objective = registry.defaults(
        'objective', 'accuracy_latency', metric='macs', target=4e5
    )
    c.search.evaluations = 50
    common.use_digits_proxy(c, mnasnet)
    c.proxy.duration, c.proxy.schedule.warmup = '5 epochs', '1 epochs'


def paper(c: ConfigDict) -> None:
    """Sections 4 and 5: 5 epochs of ImageNet, 50,000 training images held out; 8,000 models.

    75 ms are on a Pixel 1; this search measures the machine that trains, so set the target for that
    machine. Not published: the schedule within 5 epochs (here that of the full training, after one
    epoch of warm-up), and the number of models evaluated at once.
    """
    c.search.space = registry.defaults('space', 'mnasnet')
    c.search.searcher = registry.defaults('searcher', 'policy_gradient')
    c.search.objective = registry.defaults('objective', 'accuracy_latency')
    c.search.evaluations, c.search.max_concurrent = 8000, 20
    c.search.engine, c.search.gpus, c.search.synchronous = 'ray', 1.0, False
    common.use_proxy(c, mnasnet, 'imagenet2012')
    c.search.evaluator = registry.defaults('evaluator', 'train_latency')
    c.proxy.data.train_split, c.proxy.data.eval_split = 'train[50000:]', 'train[:50000]'
    c.proxy.duration, c.proxy.schedule.warmup = '5 epochs', '1 epochs'


def mnasnet_table(c: ConfigDict) -> None:
    """Accel-NASBench: ImageNet after a short training; target 3 ms on a VCK190 FPGA."""
    c.search.space = registry.defaults('space', 'accel_nasbench')
    c.search.evaluator = registry.defaults('evaluator', 'surrogate')
    c.search.searcher = registry.defaults('searcher', 'policy_gradient', **SHORT)
    c.search.objective = registry.defaults('objective', 'accuracy_latency', target=3.0)
    c.search.evaluations = 1000

"""MnasNet's search (Tan et al. 2019, https://arxiv.org/abs/1807.11626): accuracy against latency.

  python -m cls.main --config configs/search/mnasnet.py           small nets on embedded digits
  python -m cls.main --config configs/search/mnasnet.py:paper     the paper's, on ImageNet
  python -m cls.main --config configs/search/mnasnet.py:mnasnet_table --config.search.table=FILE

ARM,random in the place of an arm searches the same at random. The reward trades off softly; for
the hard one --config.search.objective.alpha=0 --config.search.objective.beta=-1. What a search
finds is trained by

  python -m cls.main --config configs/mnasnet.py --config.model.genotype=RUN/genotype.json

Expected: see configs/search/README.md for what was measured. The paper's, which has not been run
here: 8,000 models in 4.5 days on 64 TPUs (v2), among them A1 with 75.2 % on ImageNet in 78 ms.
"""

from ml_collections import ConfigDict

from cls.search import registry
from configs import mnasnet
from configs.search import common
from configs.search.nasnet import SHORT, SHORTEST


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper or mnasnet_table."""
    return common.resolve(argument, digits=digits, paper=paper, mnasnet_table=mnasnet_table)


def digits(c: ConfigDict) -> None:
    """Three stages at 16 pixels; cost is multiply-adds, which a quarter of the nets meets.

    Those are counted, so that a run can be repeated. For milliseconds of this machine:

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
    """Sections 4 and 5: 5 epochs of ImageNet, 50,000 of its training images kept; 8,000 models.

    75 ms are of a Pixel 1; what is measured here is the machine that trains, so set the target to
    what its nets are to take. Not published: how the rate falls within 5 epochs (as in the whole
    training here, after one epoch of warm-up), and how many models are out at once.
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
    """Accel-NASBench: ImageNet after a short training, milliseconds on a VCK190 FPGA, 3 wanted."""
    c.search.space = registry.defaults('space', 'accel_nasbench')
    c.search.evaluator = registry.defaults('evaluator', 'surrogate')
    c.search.searcher = registry.defaults('searcher', 'policy_gradient', **SHORT)
    c.search.objective = registry.defaults('objective', 'accuracy_latency', target=3.0)
    c.search.evaluations = 1000

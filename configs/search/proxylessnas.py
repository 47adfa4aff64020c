"""ProxylessNAS's search (Cai et al. 2019, https://arxiv.org/abs/1812.00332): a supernet's training.

  python -m cls.main --config configs/search/proxylessnas.py             small, on embedded digits
  python -m cls.main --config configs/search/proxylessnas.py:paper --config.search.table=FILE
  python -m cls.main --config configs/search/proxylessnas.py:mnasnet_table ...

The last is the REINFORCE form without a supernet, on a benchmark of trained and measured networks;
configs/search/mnasnet.py searches the same benchmark.

The update of alpha: --config.search.supernet.mode=two, full or reinforce. The paper's table is the
authors' mobile_trim.yaml (github.com/han-cai/files, folder proxylessnas), milliseconds on a Pixel
1; without a table the cost of a network is its multiply-adds, in thousands. The run writes
genotype.json at its end and prints the command that trains it. metrics.jsonl has the entropy of
alpha, the expected cost, and the cost of the current derived network. Evaluation is of that network
within the supernet, on the images that train alpha.

Published, not reproduced here: 200 GPU hours for a network with 74.6 % on ImageNet in 78 ms, after
its own training (configs/proxylessnas.py).
"""

from ml_collections import ConfigDict

from cls.recipes import common
from cls.recipes.search import mnasnet
from cls.recipes.search.common import chosen, resolve
from cls.search import registry


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper or mnasnet_table."""
    if argument.startswith('mnasnet_table'):
        return resolve(argument, mnasnet_table=mnasnet_table)
    c = common.base()
    c.search = ConfigDict()
    c.search.supernet = registry.defaults('supernet', 'proxylessnas')
    c.search.train_with = 'configs/proxylessnas.py'  # the config that trains a genotype
    c.search.table = ''  # a YAML file with the latency of each layer, see cls/search/latency.py
    c.model.name = 'proxyless_supernet'
    chosen(argument, digits=digits, paper=paper, mnasnet_table=mnasnet_table)(c)
    return c


def digits(c: ConfigDict) -> None:
    """Four layers at 16 pixels, no windows of 7; alpha has a larger rate and more frequent steps.

    The cost is multiply-adds; the reference is about half that of the most expensive network.
    """
    common.use_mobile_digits(c, duration='60 epochs', weight_decay=4e-5)
    c.data.train_split, c.data.eval_split = 'train[:80%]', 'train[80%:]'
    c.model.stem_features, c.model.first_features, c.model.head_features = 16, 16, 128
    c.model.widths, c.model.repeats, c.model.strides = (24, 40), (2, 2), (2, 1)
    c.model.windows = (3, 5)
    c.search.supernet.every, c.search.supernet.lr = 1, 0.02
    c.search.supernet.reference = 700.0
    c.log_every, c.eval.every = '2 epochs', '10 epochs'


def paper(c: ConfigDict) -> None:
    """The defaults of the authors' search/imagenet_arch_search.py, on ImageNet.

    40 epochs of warm-up with a cosine from 0.05, then 120 with one from 0.025; 50,000 training
    images are held out. Two paths are active (that script: all by default). The reference is 80 ms.
    """
    common.use_imagenet(c)
    c.data.train_split, c.data.eval_split = 'train[50000:]', 'train[:50000]'
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop = 'random_resized'
    c.augment.brightness = c.augment.contrast = 0.4
    c.duration, c.batch = '160 epochs', 256
    c.optim.name, c.optim.lr, c.optim.momentum, c.optim.nesterov = 'sgd', 0.05, 0.9, True
    c.optim.weight_decay, c.optim.decay_mask = 4e-5, 'all'
    c.schedule.name, c.schedule.milestones, c.schedule.gamma = (
        'cosine_restarts',
        ('40 epochs',),
        0.5,
    )
    c.loss.label_smoothing = 0.1
    c.search.train_with = 'configs/proxylessnas.py:imagenet2012'
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'


def mnasnet_table(c: ConfigDict) -> None:
    """Section 3.3.2 and the authors' settings, except the rate: theirs is 1e-3 for more steps.

    A softmax for each decision, steps of ten networks; a step keeps 1 % of the baseline.
    """
    mnasnet.mnasnet_table(c)
    c.search.searcher = registry.defaults(
        'searcher',
        'policy_gradient',
        controller='factorised',
        algorithm='reinforce',
        batch=10,
        learning_rate=0.1,
        entropy=0.0,
        baseline=0.63,  # after each of ten networks
    )
    c.search.objective.alpha = c.search.objective.beta = -0.1

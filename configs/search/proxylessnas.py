"""ProxylessNAS's search (Cai et al. 2019, https://arxiv.org/abs/1812.00332): a supernet's training.

  python -m cls.main --config configs/search/proxylessnas.py             small, on embedded digits
  python -m cls.main --config configs/search/proxylessnas.py:paper --config.search.table=FILE
  python -m cls.main --config configs/search/proxylessnas.py:mnasnet_table ...

The last is its REINFORCE form on nets that others have trained and measured, with no supernet; see
configs/search/mnasnet.py, which searches the same.

How alpha learns: --config.search.supernet.mode=two, full or reinforce. The paper's table is the
authors' mobile_trim.yaml (github.com/han-cai/files, folder proxylessnas), milliseconds on a Pixel
1; without a table a net costs its multiply-adds, in thousands. At the end genotype.json is in the
run folder, and a line says how to train it. metrics.jsonl has the entropy of alpha, the expected
cost, and that of the net that would be derived. What is evaluated is that net within the supernet,
on the images that alpha learns from.

Expected, paper, which has not been run here: 200 GPU hours for a net with 74.6 % on ImageNet in
78 ms, after its own training (configs/proxylessnas.py).
"""

from ml_collections import ConfigDict

from cls.search import registry
from configs import common
from configs.search import mnasnet
from configs.search.common import chosen, resolve


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper or mnasnet_table."""
    if argument.startswith('mnasnet_table'):
        return resolve(argument, mnasnet_table=mnasnet_table)
    c = common.base()
    c.search = ConfigDict()
    c.search.supernet = registry.defaults('supernet', 'proxylessnas')
    c.search.train_with = 'configs/proxylessnas.py'  # the config that a genotype is trained with
    c.search.table = ''  # a YAML file with the latency of each layer, see cls/search/latency.py
    c.model.name = 'proxyless_supernet'
    chosen(argument, digits=digits, paper=paper, mnasnet_table=mnasnet_table)(c)
    return c


def digits(c: ConfigDict) -> None:
    """Four places at 16 pixels, no windows of 7; alpha has a larger rate and steps more often.

    The cost is multiply-adds; the reference is about a half of the most expensive net.
    """
    common.use_digits(c)
    c.data.image_size, c.data.pad = 16, 2
    c.data.train_split, c.data.eval_split = 'train[:80%]', 'train[80%:]'
    c.model.stem_features, c.model.first_features, c.model.head_features = 16, 16, 128
    c.model.widths, c.model.repeats, c.model.strides = (24, 40), (2, 2), (2, 1)
    c.model.windows = (3, 5)
    c.duration, c.batch = '60 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay, c.optim.clip_norm = 4e-5, 2.0
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'
    c.search.supernet.every, c.search.supernet.lr = 1, 0.02
    c.search.supernet.reference = 700.0
    c.log_every, c.eval.every = '2 epochs', '10 epochs'


def paper(c: ConfigDict) -> None:
    """The defaults of the authors' search/imagenet_arch_search.py, on ImageNet.

    40 epochs of warm-up by a cosine from 0.05, then 120 by one from 0.025; 50,000 training images
    are held out. Two paths where that has all of them by default. The reference is 80 ms.
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
    """Section 3.3.2 and the authors' settings but for the rate, theirs being 1e-3 for more steps.

    A softmax for each decision, steps of ten nets, of the baseline a hundredth is kept with each.
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
        baseline=0.63,  # with each of ten
    )
    c.search.objective.alpha = c.search.objective.beta = -0.1

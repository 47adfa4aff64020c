"""GeNet (Xie & Yuille 2017, https://arxiv.org/abs/1703.01513): the paper's recipes.

  python -m cls.main --config configs/genet.py                   a small one on embedded digits
  python -m cls.main --config configs/genet.py:cifar10           the second code; genet_1_cifar
  python -m cls.main --config configs/genet.py:svhn_cropped      the same
  python -m cls.main --config configs/genet.py:imagenet2012      the second code; variant=genet_1
  python -m cls.main --config configs/genet.py:folder=DIR        the ImageNet recipe, your images
  python -m cls.main --config configs/genet.py:finetune,folder=DIR --config.init=FILE

Other codes: --config.model.genotype=FILE, with {"stages": ["1-01", "0-01-100", ...]} in it.

Expected, digits: above 98 % (measured: see the README). The paper's top-1 by its two codes, which
have not been trained here: CIFAR-10 92.81 and 92.90, CIFAR-100 70.97 and 70.95, SVHN 98.01 and
98.03; ImageNet 71.88 and 72.13. Not here: the small nets that it evolves on MNIST.
"""

from ml_collections import ConfigDict

from configs import common, vgg


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, svhn_cropped, imagenet2012, ..."""
    return common.resolve(argument, digits=digits, cifar=cifar, svhn=svhn, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Two narrow stages, of the codes of the second net's last two, which have all kinds of nodes.

    Dropout is weaker: a net this small is not overfitted in the time.
    """
    common.use_digits(c)
    c.model.name = 'genet_2_cifar'
    c.model.genotype = {'stages': ('1-01-100', '0-11-101-0001')}
    c.model.widths, c.model.bins, c.model.hidden = (16, 32), 2, (64,)
    c.model.dropout_rate = 0.2
    c.duration, c.batch = '20 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.05, 0.9
    c.optim.weight_decay = 5e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'


def small_images(c: ConfigDict) -> None:
    """The paper's 120, 60, 40 and 20 epochs at rates of 1e-2, 1e-3, 1e-4 and 1e-5.

    Not known here: the batch, momentum and weight decay, which are VGG's but for a batch of 128,
    and how images are augmented.
    """
    vgg.sgd(c)
    c.model.name = 'genet_2_cifar'
    c.duration, c.batch = '240 epochs', 128
    c.schedule.name, c.schedule.milestones = 'step', ('120 epochs', '180 epochs', '220 epochs')
    c.eval.every = '5 epochs'


def cifar(c: ConfigDict, name: str) -> None:
    """As `small_images`."""
    common.use_cifar(c, name)
    small_images(c)


def svhn(c: ConfigDict) -> None:
    """As `small_images`.

    Not here: local contrast normalisation, and the 6,000 images of both parts that are kept out of
    training to validate on (both from memory).
    """
    common.use_svhn(c)
    small_images(c)


def imagenet(c: ConfigDict) -> None:
    """The paper takes VGG's recipe; what configs/vgg.py says of it holds here.

    Its accuracies are of single nets without VGG's many crops: here of one, of 256 pixels.
    """
    vgg.imagenet(c)
    c.model.name = 'genet_2'
    c.data.eval_resize, c.data.eval_size, c.eval.protocol = 256, 0, 'single'

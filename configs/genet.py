"""GeNet (Xie & Yuille 2017, https://arxiv.org/abs/1703.01513): the paper's recipes.

  python -m cls.main --config configs/genet.py                   small, on embedded digits
  python -m cls.main --config configs/genet.py:cifar10           the second code; genet_1_cifar
  python -m cls.main --config configs/genet.py:svhn_cropped      the same
  python -m cls.main --config configs/genet.py:imagenet2012      the second code; variant=genet_1
  python -m cls.main --config configs/genet.py:folder=DIR        the ImageNet recipe, your images
  python -m cls.main --config configs/genet.py:finetune,folder=DIR --config.init=FILE

Other codes: --config.model.genotype=FILE, with {"stages": ["1-01", "0-01-100", ...]} in it.

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1 of the two
codes, not reproduced here: CIFAR-10 92.81 and 92.90, CIFAR-100 70.97 and 70.95, SVHN 98.01 and
98.03; ImageNet 71.88 and 72.13. Not implemented: the paper's small networks for MNIST.
"""

from ml_collections import ConfigDict

from cls.recipes import common, vgg


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, svhn_cropped, imagenet2012, ..."""
    return common.resolve(argument, digits=digits, cifar=cifar, svhn=svhn, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """The last two stages of the second code, narrow; they have all kinds of nodes.

    Dropout is weaker: a network this small does not overfit in this time.
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

    Batch, momentum, weight decay and augmentation are not known: the batch is 128, momentum and
    weight decay are VGG's.
    """
    vgg.sgd(c)
    c.model.name = 'genet_2_cifar'
    c.duration, c.batch = '240 epochs', 128
    c.schedule.name, c.schedule.milestones = 'step', ('120 epochs', '180 epochs', '220 epochs')
    c.eval.every = '5 epochs'


def cifar(c: ConfigDict, name: str) -> None:
    """The recipe of `small_images`."""
    common.use_cifar(c, name)
    small_images(c)


def svhn(c: ConfigDict) -> None:
    """The recipe of `small_images`.

    Not implemented: local contrast normalization, and a validation set of 6,000 images from both
    parts (both from memory).
    """
    common.use_svhn(c)
    small_images(c)


def imagenet(c: ConfigDict) -> None:
    """VGG's recipe, as in the paper; see configs/vgg.py for its details.

    The paper's accuracies are of single networks without VGG's many crops: one crop from 256 pixels
    is evaluated.
    """
    vgg.imagenet(c)
    c.model.name = 'genet_2'
    c.data.eval_resize, c.data.eval_size, c.eval.protocol = 256, 0, 'single'

"""NASNet-A (Zoph et al. 2018, https://arxiv.org/abs/1707.07012): the paper's recipes.

  python -m cls.main --config configs/nasnet.py                 small, on embedded digits
  python -m cls.main --config configs/nasnet.py:cifar10         6 @ 768;
                              variant=nasnet_a_7_2304_cifar, --config.augment.cutout=16
  python -m cls.main --config configs/nasnet.py:imagenet2012    6 @ 4032 at 331 pixels
  python -m cls.main --config configs/nasnet.py:imagenet2012,variant=nasnet_a_mobile
             --config.data.image_size=224 --config.data.eval_resize=256
             --config.optim.lr=2.0 --config.optim.weight_decay=4e-5
             --config.model.bn_group=32                           the mobile network, 4 @ 1056
  python -m cls.main --config configs/nasnet.py:folder=DIR      the ImageNet recipe, your images
  python -m cls.main --config configs/nasnet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1, not reproduced
here: CIFAR-10 6 @ 768 96.59, with cutout 97.35, 7 @ 2304 97.03, with cutout 97.60 (Table 1, means
of five); ImageNet 6 @ 4032 82.7, 4 @ 1056 74.0 (Tables 2, 3).
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, cifar=cifar, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """One normal cell in each stack (N = 1), F = 12: both cells, the auxiliary head, drop path."""
    common.use_digits(c)
    c.model.name = 'nasnet_a_6_768_cifar'
    c.model.cells, c.model.filters, c.model.stem_filters = 1, 12, 36
    c.model.drop_path_rate = 0.1
    c.duration, c.batch = '20 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay, c.optim.clip_norm = 5e-4, 5.0
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'
    c.loss.aux_weight = 0.4


def cifar(c: ConfigDict, name: str) -> None:
    """Appendix A.6: momentum 0.9, one period of a cosine; the numbers of the released code.

    The code (`cifar_config` of slim's nasnet.py) has 600 epochs of batches of 32, rate 0.025, L2
    5e-4, the gradient's norm clipped at 5, auxiliary loss 0.4, drop path to 0.4. Table 1's "+
    cutout" is --config.augment.cutout=16, the size for CIFAR-10 in the paper on cutout
    (1708.04552); for CIFAR-100 it is 8. Not implemented: the growth of the drop path rate with
    depth, which only the code has.
    """
    common.use_cifar(c, name)
    c.model.name = 'nasnet_a_6_768_cifar'
    c.duration, c.batch = '600 epochs', 32
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.025, 0.9
    c.optim.weight_decay, c.optim.clip_norm, c.optim.clip_after_decay = 5e-4, 5.0, True
    c.schedule.name = 'cosine'
    c.loss.aux_weight = 0.4


def imagenet(c: ConfigDict) -> None:
    """Appendix A.7, with the released code's numbers for 100 replicas of 16 images each.

    The paper's: RMSProp of decay 0.9 and epsilon 1, an average of the weights of decay 0.9999,
    label smoothing 0.1, auxiliary loss 0.4, dropout 0.5, the images of Inception-v3. The code's: a
    rate of 1.5 (2.0 for the mobile network), times 0.97 each 2.4 epochs, L2 5e-5 (4e-5), the
    gradient's norm clipped at 10, 250k steps, drop path to 0.3 (none); momentum 0.9 is the default
    of slim's trainer.
    """
    common.use_imagenet(c)
    c.model.name = 'nasnet_a_large'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 16
    c.duration, c.batch = '250000 steps', 1600
    common.use_inception_images(c, 331)
    c.optim.name, c.optim.lr = 'rmsprop', 1.5
    c.optim.decay, c.optim.momentum, c.optim.eps = 0.9, 0.9, 1.0
    c.optim.weight_decay = 5e-5
    c.optim.clip_norm, c.optim.clip_after_decay = 10.0, True
    c.schedule.name, c.schedule.gamma, c.schedule.every = 'exponential', 0.97, '2.4 epochs'
    c.schedule.staircase = True
    c.loss.label_smoothing, c.loss.aux_weight = 0.1, 0.4
    c.ema = 0.9999
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

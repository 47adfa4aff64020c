"""IGCV1 (Zhang et al. 2017, https://arxiv.org/abs/1707.02725): the authors' recipes.

  python -m cls.main --config configs/igcv1.py                  small, on embedded digits
  python -m cls.main --config configs/igcv1.py:cifar10          L24M2 with shortcuts, 38 layers;
                                                    variant=igc_l32m26_ident_d20_cifar
  python -m cls.main --config configs/igcv1.py:svhn_cropped     the same network
  python -m cls.main --config configs/igcv1.py:imagenet2012     L100M2; variant=igc_l16m16
  python -m cls.main --config configs/igcv1.py:folder=DIR       the ImageNet recipe on your images
  python -m cls.main --config configs/igcv1.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 98 % (measured: cls/models/README.md). The authors' top-1, not
reproduced here: ImageNet from one crop, L4M32: 69.23, L16M16: 70.60, L100M2: 73.05; L24M2 with
shortcuts, of an unpublished depth: CIFAR-10 95.15, CIFAR-100 76.15.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, svhn_cropped, imagenet2012, ..."""
    return common.resolve(argument, digits=digits, cifar=cifar, svhn=svhn, imagenet=imagenet)


def sgd(c: ConfigDict) -> None:
    """The authors' train_model.py and train_imagenet.py. Weight decay covers all parameters."""
    c.optim.name, c.optim.momentum, c.optim.nesterov = 'sgd', 0.9, True
    c.optim.lr, c.optim.weight_decay, c.optim.decay_mask = 0.1, 1e-4, 'all'
    c.schedule.name = 'step'


def digits(c: ConfigDict) -> None:
    """Two stages of residual units, 8 groups of 4 and then 8 channels, on 8x8 digits."""
    common.use_digits(c)
    sgd(c)
    c.model.name = 'igc_l24m2_ident_d20_cifar'
    c.model.blocks, c.model.partitions, c.model.stem_features = (1, 2), ((8, 4), (8, 8)), 32
    c.duration, c.batch = '30 epochs', 64
    c.optim.weight_decay = 5e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'


def small_images(c: ConfigDict) -> None:
    """options.py: batches of 64, 400 epochs, the rate divided by 10 at 1/2, 3/4 and 7/8 of them."""
    sgd(c)
    c.model.name = 'igc_l24m2_ident_d38_cifar'
    c.duration, c.batch = '400 epochs', 64
    c.schedule.milestones = ('50 percent', '75 percent', '87.5 percent')


def cifar(c: ConfigDict, name: str) -> None:
    """The recipe of `small_images`; each set is normalized by its own mean and deviation.

    Crops have a border of the mean color, as in the authors' code.
    """
    common.use_cifar(c, name)
    small_images(c)
    c.data.pad_mode = 'mean'
    if name == 'cifar100':
        c.data.mean, c.data.std = (129.304, 124.070, 112.434), (68.170, 65.392, 70.418)


def svhn(c: ConfigDict) -> None:
    """The recipe of `small_images`, for 40 epochs and without augmentation (options.py)."""
    common.use_svhn(c)
    small_images(c)
    c.duration = '40 epochs'
    c.data.mean, c.data.std = (111.609, 113.161, 120.565), (50.498, 51.259, 50.244)


def imagenet(c: ConfigDict) -> None:
    """train_imagenet.py: batches of 256, 120 epochs, the rate divided by 10 every 30.

    The shorter side has 256 to 480 pixels; one crop from 256 is evaluated. Hue, saturation and
    lightness are shifted by up to 36, 50 and 50. Not implemented: that script's change of aspect by
    up to a quarter, and OpenCV's area interpolation.
    """
    common.use_imagenet(c)
    sgd(c)
    c.model.name = 'igc_l100m2'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 32  # as on eight devices of 32 images each
    c.duration, c.batch = '120 epochs', 256
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop, c.data.scale = 'scale_jitter', (256, 480)
    c.data.mean, c.data.std = (123.370, 112.757, 99.406), (68.998, 66.093, 68.292)
    c.augment.hsl = (36.0, 50.0, 50.0)
    c.schedule.milestones = ('30 epochs', '60 epochs', '90 epochs')
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

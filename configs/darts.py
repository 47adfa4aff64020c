"""DARTS (Liu et al. 2019, https://arxiv.org/abs/1806.09055): training its published cells.

  python -m cls.main --config configs/darts.py                 small, on embedded digits
  python -m cls.main --config configs/darts.py:cifar10         V2, of the second order;
                                                    variant=darts_v1_cifar
  python -m cls.main --config configs/darts.py:imagenet2012    V2, C = 48, L = 14
  python -m cls.main --config configs/darts.py:folder=DIR      the ImageNet recipe, your images
  python -m cls.main --config configs/darts.py:finetune,folder=DIR --config.init=FILE

Cells of another search: --config.model.genotype=FILE.json (format: cls/nn/cells.py).

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1, not reproduced
here: CIFAR-10 V2 97.24, V1 97.00 (with cutout); ImageNet 73.3.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, cifar=cifar, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """V2 with one cell in the first stage, a reduction and a normal cell in the second; C = 16."""
    common.use_digits(c)
    c.model.name = 'darts_v2_cifar'
    c.model.stage_sizes, c.model.filters = (1, 2), 16
    c.model.drop_path_rate = 0.1
    c.duration, c.batch = '20 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay, c.optim.clip_norm = 5e-4, 5.0
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'
    c.loss.aux_weight = 0.4


def cifar(c: ConfigDict, name: str) -> None:
    """Section 3.2 and appendix A.2: 600 epochs of batches of 96, a rate of 0.025 by a cosine.

    Weight decay 3e-4 of all parameters, the gradient's norm clipped at 5, auxiliary loss 0.4,
    cutout of 16 pixels. Drop path grows to 0.2, here by the step and in the released code by the
    epoch.
    """
    common.use_cifar(c, name)
    c.model.name = 'darts_v2_cifar'
    c.duration, c.batch = '600 epochs', 96
    c.augment.cutout = 16
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.025, 0.9
    c.optim.weight_decay, c.optim.decay_mask, c.optim.clip_norm = 3e-4, 'all', 5.0
    c.optim.clip_after_decay = False  # PyTorch: the norm is of the loss's gradient alone
    c.schedule.name = 'cosine'
    c.loss.aux_weight = 0.4


def imagenet(c: ConfigDict) -> None:
    """Section 3.3: 250 epochs of batches of 128, a rate of 0.1 that falls by 3 % each epoch.

    The rest from the released code (train_imagenet.py): weight decay 3e-5 of all parameters, label
    smoothing 0.1, auxiliary loss 0.4, no drop path; torchvision's crops, and jitter of brightness,
    contrast and saturation by 0.4, of hue by 0.2. One crop from 256 pixels is evaluated.
    """
    common.use_imagenet(c)
    c.model.name = 'darts_v2'
    c.model.dtype = 'bfloat16'
    c.duration, c.batch = '250 epochs', 128
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop = 'random_resized'
    c.augment.brightness = c.augment.contrast = c.augment.saturation = 0.4
    c.augment.hue = 0.2
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay, c.optim.decay_mask, c.optim.clip_norm = 3e-5, 'all', 5.0
    c.schedule.name, c.schedule.gamma, c.schedule.every = 'exponential', 0.97, '1 epochs'
    c.schedule.staircase = True
    c.loss.label_smoothing, c.loss.aux_weight = 0.1, 0.4
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

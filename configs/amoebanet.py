"""AmoebaNet (Real et al. 2019, https://arxiv.org/abs/1802.01548): the paper's recipes.

  python -m cls.main --config configs/amoebanet.py                 small, on embedded digits
  python -m cls.main --config configs/amoebanet.py:cifar10         A (6, 36)
  python -m cls.main --config configs/amoebanet.py:imagenet2012    A (6, 190) at 331 pixels;
                                                      variant=amoebanet_a_n6_f448, ..._d_n6_f256
  python -m cls.main --config configs/amoebanet.py:folder=DIR      the ImageNet recipe, your images
  python -m cls.main --config configs/amoebanet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 97 % in two minutes on two CPU cores, compilation included (measured:
cls/models/README.md). Published top-1, not reproduced here: CIFAR-10 A (6, 36) 96.66 (mean of
five); ImageNet A (6, 190) 82.8, A (6, 448) 83.9.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, cifar=cifar, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Cell A with one normal cell in each stack (N = 1), F = 12: every mechanism, scaled down."""
    common.use_digits(c)
    c.model.name = 'amoebanet_a_n6_f36_cifar'
    c.model.cells, c.model.filters, c.model.stem_filters = 1, 12, 36
    c.model.dropout_rate, c.model.drop_path_rate = 0.2, 0.1
    c.model.bn_momentum = 0.9
    # 99.06 ± 0.16 % over seeds 0 to 2; 40 epochs reach 99.25 ± 0.33 (`cls sweep`, 355 images).
    c.duration, c.batch = '20 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay, c.optim.clip_norm = 5e-4, 10.0
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'
    c.loss.aux_weight = 0.4
    c.ema = 0.99


def cifar(c: ConfigDict, name: str) -> None:
    """Section 4, augmented models: 600 epochs, rate 0.024 to 0 by a cosine, batches of 128.

    Drop path up to 0.3, weight decay 5e-4, auxiliary loss 0.5. The paper uses cutout only for its
    AmoebaNet-B: --config.augment.cutout=16.
    """
    common.use_cifar(c, name)
    c.model.name = 'amoebanet_a_n6_f36_cifar'
    c.model.bn_momentum = 0.9
    c.duration, c.batch = '600 epochs', 128
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.024, 0.9
    c.optim.weight_decay = 5e-4
    c.schedule.name = 'cosine'
    c.loss.aux_weight = 0.5


def imagenet(c: ConfigDict) -> None:
    """The recipe of the released TPU code (amoeba_net_model.py) for 8 x 32 images a step.

    That code has a rate of 0.015 for 32 images; with momentum and RMSProp the rate is not scaled
    here. Its floor for the rate, 1e-4 of the start, is not reached in 100 epochs. Its preprocessing
    (inception_preprocessing.py) has crops of 5 % of the area or more and TensorFlow's bilinear
    resizing. It shifts brightness and both chromas in place of Inception's color distortions; this
    recipe uses Inception's. Its evaluation resizes the central 87.5 % of both sides to a square;
    here a square is cropped.
    """
    common.use_imagenet(c)
    c.model.name = 'amoebanet_a_n6_f190'
    c.model.dtype = 'bfloat16'
    c.model.num_classes = 1001  # as there; labels are 0 to 999, so the last is never one
    c.model.bn_group = 32
    c.duration, c.batch = '100 epochs', 256
    common.use_inception_images(c, 331)
    c.optim.name, c.optim.lr = 'rmsprop', 0.015
    c.optim.decay, c.optim.momentum, c.optim.eps = 0.9, 0.9, 1.0
    c.optim.weight_decay, c.optim.decay_mask = 4e-5, 'kernels'
    c.optim.clip_norm, c.optim.clip_after_decay = 10.0, True
    c.schedule.name, c.schedule.gamma, c.schedule.every = 'exponential', 0.97, '2.4 epochs'
    c.schedule.staircase, c.schedule.warmup = True, '3 epochs'
    c.loss.label_smoothing, c.loss.aux_weight = 0.1, 0.4
    c.ema = 0.9999
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

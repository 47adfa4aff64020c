"""MobileNetV3 (Howard et al. 2019, https://arxiv.org/abs/1905.02244): the paper's recipe.

  python -m cls.main --config configs/mobilenetv3.py                 small, on embedded digits
  python -m cls.main --config configs/mobilenetv3.py:imagenet2012    the large network;
                                        variant=mobilenetv3_small_100, mobilenetv3_large_075, ...
  python -m cls.main --config configs/mobilenetv3.py:imagenet2012_modern   timm's later recipe
  python -m cls.main --config configs/mobilenetv3.py:folder=DIR      its recipe on your images
  python -m cls.main --config configs/mobilenetv3.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1, not reproduced
here: ImageNet large: 75.2, small: 67.4 (Table 3); the authors' README has 73.3 and 65.4 for the
width 0.75, 72.3 and 61.9 for the minimalistic networks.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012, imagenet2012_modern or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet, modern=modern)


def digits(c: ConfigDict) -> None:
    """Four blocks, three with gates and two with h-swish, on digits of 16 pixels."""
    common.use_mobile_digits(c, duration='30 epochs', weight_decay=1e-5, ema=0.98)
    c.model.name = 'mobilenetv3_small_100'
    c.model.genotype = {
        'stages': (
            ('r1_k3_s1_e1_o16_se0.25_relu',),
            ('r1_k3_s2_e4_o24_relu',),
            ('r2_k5_s1_e4_o40_se0.25',),
        )
    }
    c.model.last_features, c.model.head_features, c.model.bn_momentum = 96, 128, 0.9


def imagenet(c: ConfigDict) -> None:
    """Section 6.1.1: RMSProp with momentum 0.9, batches of 4,096, 128 for each chip.

    A rate of 0.1 with a 'decay rate of 0.01 every 3 epochs', read as a factor of 0.99. Dropout of
    0.2, weight decay 1e-5, averages of 0.9999, Inception's images. Depthwise filters do not decay,
    as in slim (training_scope of mobilenet.py). The length, RMSProp's decay and epsilon and the
    warm-up are not published: they are those of MnasNet, a paper with authors in common.
    """
    common.use_imagenet(c)
    c.model.name = 'mobilenetv3_large_100'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 128
    c.duration, c.batch = '350 epochs', 4096
    common.use_inception_images(c, 224)
    c.optim.name, c.optim.lr = 'rmsprop', 0.1
    c.optim.decay, c.optim.momentum, c.optim.eps = 0.9, 0.9, 1e-3
    c.optim.weight_decay, c.optim.decay_mask = 1e-5, 'not_depthwise'
    c.schedule.name, c.schedule.gamma, c.schedule.every = 'exponential', 0.99, '3 epochs'
    c.schedule.staircase, c.schedule.warmup = True, '5 epochs'
    c.ema = 0.9999
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'


def modern(c: ConfigDict) -> None:
    """Timm's recipe of mobilenetv3_large_100 (published top-1: 75.766).

    Drop path of 0.2, without its noise of the rate. Dropout 0.2 is the variant's.
    """
    common.use_timm_mobile(c, epochs=600, batch=1024, lr=0.064, gamma=0.973)
    c.model.name, c.model.drop_path_rate = 'mobilenetv3_large_100', 0.2

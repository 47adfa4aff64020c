"""MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381): the authors' recipe.

  python -m cls.main --config configs/mobilenetv2.py                 small, on embedded digits
  python -m cls.main --config configs/mobilenetv2.py:imagenet2012    width 1;
                                                    variant=mobilenetv2_140, mobilenetv2_050, ...
  python -m cls.main --config configs/mobilenetv2.py:folder=DIR      its recipe on your images
  python -m cls.main --config configs/mobilenetv2.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 97 % (measured: cls/models/README.md). Published top-1, not reproduced
here: ImageNet width 1: 72.0, width 1.4: 74.7 (Table 4).
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Four inverted residuals, one with a shortcut, on digits of 16 pixels."""
    common.use_mobile_digits(c, duration='30 epochs', weight_decay=4e-5, ema=0.98)
    c.model.name = 'mobilenetv2_100'
    c.model.genotype = {
        'stages': (('r1_k3_s1_e1_o16',), ('r2_k3_s2_e6_o24',), ('r1_k3_s1_e6_o32',))
    }
    c.model.stem_features, c.model.head_features, c.model.bn_momentum = 16, 128, 0.9


def imagenet(c: ConfigDict) -> None:
    """Section 6.1, and the authors' README for one GPU (slim's mobilenet).

    RMSProp with decay and momentum 0.9, a rate of 0.045, weight decay 4e-5, batches of 96. The
    paper's 16 workers train asynchronously and multiply the rate by 0.98 every epoch of a worker.
    The README's single GPU does so every 2.5 epochs, for 5.5 million steps, with label smoothing
    0.1, averaged weights and Inception's images in slim's fast color mode. That mode and RMSProp's
    epsilon are defaults of slim's trainer. Neither norms nor depthwise filters decay, as in slim
    (training_scope of mobilenet.py).
    """
    common.use_imagenet(c)
    c.model.name = 'mobilenetv2_100_tf'
    c.model.dtype = 'bfloat16'
    c.duration, c.batch = '5500000 steps', 96
    common.use_inception_images(c, 224)
    c.augment.distortion = 'inception_fast'
    c.optim.name, c.optim.lr = 'rmsprop', 0.045
    c.optim.decay, c.optim.momentum, c.optim.eps = 0.9, 0.9, 1.0
    c.optim.weight_decay, c.optim.decay_mask = 4e-5, 'not_depthwise'
    c.schedule.name, c.schedule.gamma, c.schedule.every = 'exponential', 0.98, '2.5 epochs'
    c.schedule.staircase = True
    c.loss.label_smoothing = 0.1
    c.ema = 0.9999
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

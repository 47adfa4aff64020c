"""MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381): the authors' recipe.

  python -m cls.main --config configs/mobilenetv2.py                 a small one, embedded digits
  python -m cls.main --config configs/mobilenetv2.py:imagenet2012    width 1;
                                                    variant=mobilenetv2_140, mobilenetv2_050, ...
  python -m cls.main --config configs/mobilenetv2.py:folder=DIR      its recipe on your images
  python -m cls.main --config configs/mobilenetv2.py:finetune,folder=DIR --config.init=FILE

Expected, digits: above 97 % (measured: see the README). The paper's top-1, which has not been
trained here: ImageNet width 1: 72.0, width 1.4: 74.7 (Table 4).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Four inverted residuals, one with a shortcut, on digits of 16 pixels."""
    common.use_digits(c)
    c.data.image_size = 16
    c.data.pad = 2  # a pixel of the original
    c.model.name = 'mobilenetv2_100'
    c.model.genotype = {
        'stages': (('r1_k3_s1_e1_o16',), ('r2_k3_s2_e6_o24',), ('r1_k3_s1_e6_o32',))
    }
    c.model.stem_features, c.model.head_features, c.model.bn_momentum = 16, 128, 0.9
    c.duration, c.batch = '30 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay, c.optim.clip_norm = 4e-5, 2.0
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'
    c.ema = 0.98


def imagenet(c: ConfigDict) -> None:
    """Section 6.1, and what the authors' README (slim, nets/mobilenet) says of one GPU.

    RMSProp with decay and momentum 0.9, a rate of 0.045, weight decay 4e-5, batches of 96. The
    paper's 16 workers train asynchronously and lower the rate by 0.98 in every epoch of theirs; the
    README has one GPU, on which that is every 2.5 epochs, for 5.5 million steps, label smoothing
    0.1, averaged weights and Inception's images, with colours distorted in slim's fast mode: its
    trainer's default, as is RMSProp's epsilon. Neither norms nor depthwise filters decay, as in the
    code (slim, training_scope of nets/mobilenet/mobilenet.py).
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

"""MnasNet (Tan et al. 2019, https://arxiv.org/abs/1807.11626): the authors' recipe.

  python -m cls.main --config configs/mnasnet.py                 small, on embedded digits
  python -m cls.main --config configs/mnasnet.py:imagenet2012    A1; variant=mnasnet_b1, ...
  python -m cls.main --config configs/mnasnet.py:folder=DIR      its recipe on your images
  python -m cls.main --config configs/mnasnet.py:finetune,folder=DIR --config.init=FILE

Any other network of the space: --config.model.genotype=FILE.json, with the stages' strings.
Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1, not reproduced
here: ImageNet A1: 75.2 (Table 1); the authors' README has A1 at width 1.4: 77.2, 0.75: 73.3, 0.5:
68.9.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """A1 with fewer stages, one of them with gates, on digits of 16 pixels."""
    common.use_mobile_digits(c, duration='30 epochs', weight_decay=1e-5, ema=0.98)
    c.model.name = 'mnasnet_a1'
    c.model.genotype = {
        'stages': (
            ('r1_k3_s1_e1_o16_noskip',),
            ('r1_k3_s2_e6_o24',),
            ('r2_k5_s1_e3_o40_se0.25',),
        )
    }
    c.model.stem_features, c.model.head_features, c.model.bn_momentum = 16, 128, 0.9


def imagenet(c: ConfigDict) -> None:
    """Section 5, with batches of 4,096, and the authors' code (mnasnet_main.py) for the rest.

    RMSProp with decay and momentum 0.9 and, in the code, an epsilon of 1e-3; a rate of 0.256 after
    5 epochs of warm-up, times 0.97 every 2.4 epochs; weight decay 1e-5 without the norms; dropout
    0.2. From the code: 350 epochs, label smoothing 0.1, averages of 0.9999; crops of 8 % or more,
    resized bilinearly without antialiasing, mirrored, without color jitter (preprocessing.py). The
    number of images in the batch statistics is not published: 64 here.
    """
    common.use_imagenet(c)
    c.model.name = 'mnasnet_a1'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 64
    c.duration, c.batch = '350 epochs', 4096
    c.data.image_size, c.data.eval_resize = 224, 256  # crop of 87.5 %
    c.data.train_crop, c.data.interpolation = 'random_resized', 'tf_bilinear'
    c.optim.name, c.optim.lr = 'rmsprop', 0.256
    c.optim.decay, c.optim.momentum, c.optim.eps = 0.9, 0.9, 1e-3
    c.optim.weight_decay, c.optim.decay_mask = 1e-5, 'not_norms'
    c.schedule.name, c.schedule.gamma, c.schedule.every = 'exponential', 0.97, '2.4 epochs'
    c.schedule.staircase, c.schedule.warmup = True, '5 epochs'
    c.loss.label_smoothing = 0.1
    c.ema = 0.9999
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

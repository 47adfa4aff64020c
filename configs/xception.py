"""Xception (Chollet 2017, https://arxiv.org/abs/1610.02357): the paper's recipe for ImageNet.

  python -m cls.main --config configs/xception.py                  small, on embedded digits
  python -m cls.main --config configs/xception.py:imagenet2012     the paper's
  python -m cls.main --config configs/xception.py:folder=DIR       its recipe on your images
  python -m cls.main --config configs/xception.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1, not reproduced
here: ImageNet 79.0, one crop (Table 1). Its other data set, JFT, is not public.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Two blocks of the entry flow, one of the middle, the exit flow; digits of 24x24 pixels."""
    common.use_digits(c)
    c.data.image_size = 24
    c.model.name = 'xception'
    c.model.stem, c.model.entry, c.model.middle = (16, 32), (48, 64), 1
    c.model.exit = (96, 128, 128)
    c.model.dropout_rate, c.model.bn_momentum = 0.2, 0.9
    c.duration, c.batch = '15 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay, c.optim.clip_norm = 1e-4, 2.0
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'
    c.ema = 0.98


def imagenet(c: ConfigDict) -> None:
    """Sections 4.2 to 4.4: SGD with a rate of 0.045, times 0.94 every second epoch, on 60 GPUs.

    Weight decay is 1e-5, tuned for Xception, dropout 0.5; evaluation is with Polyak's average of
    the parameters. The batch, the length and the decay of the average are not published: 32 images
    for each GPU, 100 epochs and 0.9999 are Inception-v3's. The paper trains in Inception-v3's
    pipeline: crops of 5 % or more, distorted colors. Not implemented: asynchronous updates.
    """
    common.use_imagenet(c)
    c.model.name = 'xception'
    c.model.dtype = 'bfloat16'
    c.model.dropout_rate = 0.5
    c.model.bn_group = 32
    c.duration, c.batch = '100 epochs', 1920
    common.use_inception_images(c, 299)
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.045, 0.9
    c.optim.weight_decay, c.optim.decay_mask = 1e-5, 'kernels'
    c.schedule.name, c.schedule.gamma, c.schedule.every = 'exponential', 0.94, '2 epochs'
    c.schedule.staircase = True
    c.ema = 0.9999
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

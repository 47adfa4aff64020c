"""SqueezeNet (Iandola et al. 2016, https://arxiv.org/abs/1602.07360): the paper's recipe.

  python -m cls.main --config configs/squeezenet.py                 small, on embedded digits
  python -m cls.main --config configs/squeezenet.py:imagenet2012    v1.0 with simple bypass;
                                            variant=squeezenet1_0, squeezenet1_1, ..._complex
  python -m cls.main --config configs/squeezenet.py:folder=DIR      the ImageNet recipe, your images
  python -m cls.main --config configs/squeezenet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 90 % (measured: cls/models/README.md). Published top-1, not reproduced
here: ImageNet v1.0 57.5, with simple bypass 60.4, with complex bypass 58.8 (Tables 2, 3).
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Three Fire modules, with both kinds of bypass, on digits of 16x16 pixels."""
    common.use_digits(c)
    c.data.image_size = 16
    c.data.pad = 2  # a pixel of the original
    c.model.name = 'squeezenet1_0_complex'
    c.model.stages, c.model.stem_features, c.model.stem_window = ((64, 64), (128,)), 32, 3
    c.model.dropout_rate, c.model.logit_bias = 0.2, 1.0
    c.duration, c.batch = '80 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.01, 0.9
    c.optim.weight_decay, c.optim.clip_norm = 2e-4, 1.0
    c.schedule.name, c.schedule.warmup = 'polynomial', '2 epochs'


def imagenet(c: ConfigDict) -> None:
    """Section 3.3: a rate of 0.04 that falls linearly; the rest is in the authors' Caffe files.

    An early version of the paper has batches of 1,024 and 90 epochs. The last version refers to the
    files (SqueezeNet_v1.0/solver.prototxt, train_val.prototxt). They have the same batch, momentum
    0.9, weight decay 2e-4 of all parameters and no separate rate for biases, but 85k steps and a
    rate of 0.08 that falls as a square root: --config.duration='85000 steps' --config.optim.lr=0.08
    --config.schedule.power=0.5. Crops have 227 pixels, are not mirrored, and the mean pixel is
    subtracted (104, 117, 123 in BGR). Caffe's images are first resized to 256x256; here the shorter
    side is resized to 256.
    """
    common.use_imagenet(c)
    c.model.name = 'squeezenet1_0_simple'
    c.model.dtype = 'bfloat16'
    c.duration, c.batch = '90 epochs', 1024
    c.data.image_size, c.data.eval_resize = 227, 256
    c.data.train_crop, c.data.scale, c.data.flip = 'scale_jitter', (256, 256), False
    c.data.mean, c.data.std = (123.0, 117.0, 104.0), (1.0,) * 3
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.04, 0.9
    c.optim.weight_decay, c.optim.decay_mask = 2e-4, 'all'
    c.schedule.name, c.schedule.power = 'polynomial', 1.0
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

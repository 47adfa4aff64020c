"""ShuffleNet (Zhang et al. 2018, https://arxiv.org/abs/1707.01083): the paper's recipe.

  python -m cls.main --config configs/shufflenet.py                 small, on embedded digits
  python -m cls.main --config configs/shufflenet.py:imagenet2012    three groups, scale 1;
                             variant=shufflenet_g8_1x, shufflenet_g3_0.5x, shufflenet_g3_2x_se, ...
  python -m cls.main --config configs/shufflenet.py:folder=DIR      the ImageNet recipe, your images
  python -m cls.main --config configs/shufflenet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 97 % (measured: cls/models/README.md). Published top-1, not reproduced
here: ImageNet, 1x with 1, 2, 3, 4 and 8 groups 66.4, 67.3, 67.4, 67.2 and 67.6 (Table 2); three
groups 0.25x 45.0, 0.5x 56.8, 1.5x 71.5, 2x 73.7, 2x with squeeze and excitation 75.3 (Tables 2 and
5).
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Two stages of two SE units of three groups, on digits of 24x24 pixels."""
    common.use_mobile_digits(c, duration='20 epochs', weight_decay=1e-4, ema=0.99, size=24)
    c.model.name = 'shufflenet_g3_2x_se'
    c.model.stem_features, c.model.widths, c.model.stage_sizes = 24, (120, 240), (2, 2)


def imagenet(c: ConfigDict) -> None:
    """Section 4: batches of 1,024 on 4 GPUs for 300k steps, a rate of 0.5 that falls linearly to 0.

    Weight decay is 4e-5, the rest as for ResNeXt: SGD with momentum 0.9, random resized crops,
    color jitter of 0.4. The paper's crops are slightly less aggressive, by an unpublished amount;
    in the authors' later code (megvii-model/ShuffleNet-Series, ShuffleNetV1/train.py) they are from
    8 % of the image's area, as here. From that code are also the jitter without ResNeXt's PCA
    noise, SGD without Nesterov's momentum, and no decay of norms and biases. It also smooths labels
    and recomputes the batch statistics from 1.28 million images at the end, unlike the paper:
    --config.loss.label_smoothing=0.1 --config.eval.precise_bn=1280000.
    """
    common.use_imagenet(c)
    c.model.name = 'shufflenet_g3_1x'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 256
    c.duration, c.batch = '300000 steps', 1024
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop = 'random_resized'
    c.augment.brightness = c.augment.contrast = c.augment.saturation = 0.4
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.5, 0.9
    c.optim.weight_decay, c.optim.decay_mask = 4e-5, 'kernels'
    c.schedule.name, c.schedule.power = 'polynomial', 1.0
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

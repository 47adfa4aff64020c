"""GoogLeNet (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842): the paper's recipe.

  python -m cls.main --config configs/googlenet.py                 small, on embedded digits
  python -m cls.main --config configs/googlenet.py:imagenet2012    the paper's network;
                                                                   variant=googlenet_bn
  python -m cls.main --config configs/googlenet.py:folder=DIR      the ImageNet recipe, your images
  python -m cls.main --config configs/googlenet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 97 % (measured: cls/models/README.md). Published top-5, not reproduced
here: ImageNet, one network, 144 crops 92.11, one crop (--config.eval.protocol=single) 89.93; seven
networks, 144 crops 93.33 (Table 3).

Each auxiliary head's loss has weight 0.3 (section 5). `loss.aux_weight` weights the mean over the
two heads: 0.6.
"""

from ml_collections import ConfigDict

from cls.recipes import common

AUX_WEIGHT = 0.3 * 2


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Four narrow modules and both auxiliary heads, on digits of 32x32 pixels."""
    common.use_digits(c)
    c.data.image_size = 32
    c.data.pad = 4  # a pixel of the original
    c.model.name = 'googlenet'
    narrow, wide = (16, 16, 32, 8, 16, 16), (32, 24, 48, 8, 24, 24)
    c.model.stem_features, c.model.stages = (16, 16, 48), ((narrow,), (narrow, narrow, wide))
    c.model.dropout_rate, c.model.aux_dropout_rate = 0.2, 0.5
    c.duration, c.batch = '20 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.02, 0.9
    c.optim.weight_decay, c.optim.clip_norm = 2e-4, 5.0
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'
    c.loss.aux_weight = AUX_WEIGHT


def imagenet(c: ConfigDict) -> None:
    """Section 6: momentum 0.9, the rate 4 % lower every 8 epochs, averaged weights, random crops.

    The crops are 8 to 100 % of the image's area, of aspect 3/4 to 4/3. Details missing from the
    paper are those of Caffe's bvlc_googlenet: a rate of 0.01 for batches of 32, twice that for
    biases, weight decay 2e-4 of all other parameters, 250 epochs, the mean pixel. The decay of the
    exponential average is not published. The paper's training is asynchronous, this recipe is
    synchronous. The photometric distortions are Howard's (1312.5402, from memory): contrast,
    brightness and color by factors of 0.5 to 1.5, and AlexNet's lighting. 144 crops are evaluated
    (section 7). Not implemented: an interpolation sampled from four, whose effect the paper leaves
    open.
    """
    common.use_imagenet(c)
    c.model.name = 'googlenet'
    c.model.dtype = 'bfloat16'
    c.duration, c.batch = '250 epochs', 32
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop, c.data.area, c.data.aspect = 'random_resized', (0.08, 1.0), (3 / 4, 4 / 3)
    c.data.mean, c.data.std = (123.0, 117.0, 104.0), (1.0,) * 3
    c.augment.brightness = c.augment.contrast = c.augment.saturation = 0.5
    c.augment.lighting = 0.1
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.01, 0.9
    c.optim.weight_decay, c.optim.decay_mask, c.optim.bias_lr_mult = 2e-4, 'kernels', 2.0
    c.schedule.name, c.schedule.gamma = 'exponential', 0.96
    c.schedule.every, c.schedule.staircase = '8 epochs', True
    c.loss.aux_weight = AUX_WEIGHT
    c.ema = 0.9999
    c.eval.protocol = 'crops_144'
    c.log_every, c.checkpoint.every, c.eval.every = '500 steps', '1 epochs', '5 epochs'

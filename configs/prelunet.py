"""PReLU networks (He et al. 2015, https://arxiv.org/abs/1502.01852): the paper's recipes.

  python -m cls.main --config configs/prelunet.py                 small, on embedded digits
  python -m cls.main --config configs/prelunet.py:imagenet2012    A; variant=prelunet_c, ..._14
  python -m cls.main --config configs/prelunet.py:folder=DIR      the ImageNet recipe, your images
  python -m cls.main --config configs/prelunet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1, not reproduced
here: ImageNet, many scales and dense, A 77.03, B 77.15, C 78.41 (Table 6); ten crops A 74.41, B
74.47, C 75.73, the small network 67.36 (Tables 5 and 2).
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def sgd(c: ConfigDict) -> None:
    """Section 3, training. Slopes are not decayed (section 2.1), nor biases here."""
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.01, 0.9
    c.optim.weight_decay, c.optim.decay_mask = 5e-4, 'kernels'


def digits(c: ConfigDict) -> None:
    """Two stages of two convolutions on enlarged digits, and a pyramid of 14 bins."""
    common.use_digits(c)
    sgd(c)
    c.data.image_size = 32
    c.data.pad = 4
    c.model.name = 'prelunet_a'
    c.model.stage_sizes, c.model.widths, c.model.stem_width = (2, 2), (32, 48), 16
    c.model.pyramid, c.model.hidden = (3, 2, 1), 128
    c.duration, c.batch = '30 epochs', 64
    c.schedule.name, c.schedule.milestones = 'step', ('60 percent', '85 percent')


def imagenet(c: ConfigDict) -> None:
    """Section 3, training: 80 epochs of batches of 128, the rate divided by 10 at plateaus, twice.

    The plateaus are not published: the rate falls after each third of the run. The paper subtracts
    the mean of each pixel; here pixels are normalized channel by channel. Colors have AlexNet's PCA
    noise; all parameters are decayed except the slopes (section 2.1). Evaluation is dense and
    mirrored (section 3, testing), on Table 4's scales for A; Table 6 does not give its scales.
    Tables 1, 2 and 5, ten crops: --config.eval.protocol=ten_crop.
    """
    common.use_imagenet(c)
    sgd(c)
    c.model.name = 'prelunet_a'
    c.model.dtype = 'bfloat16'
    c.duration, c.batch = '80 epochs', 128
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop, c.data.scale = 'scale_jitter', (256, 512)
    c.augment.lighting = 0.1
    c.optim.decay_mask = 'not_norms'  # nor the slopes; biases, unlike in `sgd`
    c.eval.protocol, c.eval.scales = 'dense_flip', (256, 384, 480)
    c.schedule.name, c.schedule.milestones = 'step', ('27 epochs', '54 epochs')
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

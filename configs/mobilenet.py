"""MobileNet (Howard et al. 2017, https://arxiv.org/abs/1704.04861): the paper's recipe.

  python -m cls.main --config configs/mobilenet.py                  small, on embedded digits
  python -m cls.main --config configs/mobilenet.py:imagenet2012     width 1.0 at 224 pixels;
                     variant=mobilenet_050, ..., --config.data.image_size=192
                     --config.data.eval_resize=219 (also 160 and 183, 128 and 146)
  python -m cls.main --config configs/mobilenet.py:folder=DIR       the ImageNet recipe, your images
  python -m cls.main --config configs/mobilenet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 97 % (measured: cls/models/README.md). Published top-1, not reproduced
here: ImageNet, widths 1.0, 0.75, 0.5 and 0.25 at 224 pixels 70.6, 68.4, 63.7 and 50.6 (Table 6);
width 1.0 at 192, 160 and 128 pixels 69.1, 67.2 and 64.4 (Table 7).
"""

from ml_collections import ConfigDict

from cls.recipes import common, inception_v3


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Five blocks of half the width in three stages, in place of 13; digits of 16x16 pixels."""
    common.use_mobile_digits(c, duration='20 epochs', weight_decay=1e-4, ema=0.99)
    c.model.name = 'mobilenet_050'
    c.model.stages, c.model.bn_momentum = ((64,), (128, 128), (256, 256)), 0.9


def imagenet(c: ConfigDict) -> None:
    """Section 3.2: RMSProp as for Inception-v3, with less regularization and augmentation.

    From the paper: neither label smoothing nor side heads; a limit on small crops, whose value is
    not published (here a fifth of the image's area); little or no weight decay of depthwise filters
    (none here, as in slim's mobilenet_v1_arg_scope). The paper refers to Inception-v3 for RMSProp:
    its numbers, rate, batch, length, clipping, averaging and color distortions are those of
    configs/inception_v3.py. Weight decay of 4e-5 and pixels from -1 to 1 are from the authors'
    code. Not implemented: asynchronous updates.
    """
    inception_v3.rmsprop(c)
    common.use_inception_images(c, 224)
    c.model.name = 'mobilenet_100'
    c.duration, c.batch = '100 epochs', 1600
    c.data.area = (0.2, 1.0)
    c.optim.decay_mask = 'not_depthwise'
    c.loss.label_smoothing = 0.0
    c.eval.protocol = 'single'

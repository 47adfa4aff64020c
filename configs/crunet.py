"""CRU-Net (Chen et al. 2018, https://arxiv.org/abs/1703.02180): the authors' recipe.

  python -m cls.main --config configs/crunet.py                  small, on embedded digits
  python -m cls.main --config configs/crunet.py:imagenet2012     CRU-Net-56; variant=crunet116
  python -m cls.main --config configs/crunet.py:folder=DIR       the ImageNet recipe, your images
  python -m cls.main --config configs/crunet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 98 % (measured: cls/models/README.md). The authors' top-1 from one
crop, not reproduced here: CRU-Net-56 78.1, CRU-Net-116 79.4.
"""

from ml_collections import ConfigDict

from cls.recipes import common, dpn


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """A residual and a collective stage, where pairs of units share kernels."""
    dpn.enlarged_digits(c)
    c.model.name = 'crunet56'
    c.model.block_sizes, c.model.collective, c.model.sharing = (1, 4), (0, 64), 2
    c.model.width, c.model.inner, c.model.groups, c.model.stem_features = 48, 32, 4, 24


def imagenet(c: ConfigDict) -> None:
    """Crops and normalization as in the authors' README (https://github.com/cypw/CRU-Net).

    Hue, saturation and lightness are shifted by up to 20, 40 and 50. One crop from 256 pixels is
    evaluated. The README does not name the optimizer or the resizing: batch, rate, momentum and
    decay are those of ResNeXt (1611.05431, section 5), the base of these networks, with 90 epochs.
    """
    dpn.imagenet(c)
    c.model.name = 'crunet56'
    c.batch, c.optim.lr = 256, 0.1
    c.data.interpolation, c.eval.precise_bn = 'bilinear', 0

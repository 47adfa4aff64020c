"""IGCV2 (Xie et al. 2018, https://arxiv.org/abs/1804.06202): networks with fitted widths.

  python -m cls.main --config configs/igcv2.py                  small, on embedded digits
  python -m cls.main --config configs/igcv2.py:cifar100         the network of 0.65 M parameters
  python -m cls.main --config configs/igcv2.py:imagenet2012     IGCV2-1.0; variant=igcv2_0_5
  python -m cls.main --config configs/igcv2.py:folder=DIR       the ImageNet recipe on your images
  python -m cls.main --config configs/igcv2.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 97 % (measured: cls/models/README.md). Published top-1, not reproduced
here: CIFAR-100 77.05; ImageNet 1.0: 70.7, 0.5: 65.5, 0.25: 54.9. The paper's recipe is not
published as code: the arms use IGCV1's.
"""

from ml_collections import ConfigDict

from cls.recipes import common, igcv1


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, cifar=cifar, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Four blocks of 32 and 64 channels; 1x1 convolutions of K = C / 8 and 8, on 8x8 digits."""
    common.use_digits(c)
    igcv1.sgd(c)
    c.model.name = 'igcv2_0_25'
    c.model.width, c.model.stage_sizes, c.model.scales = 32, (2, 2), (1, 2)
    c.model.branches, c.model.stem_strides = (0, 8), 1
    c.duration, c.batch = '30 epochs', 64
    c.optim.weight_decay = 5e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'


def cifar(c: ConfigDict, name: str) -> None:
    """IGCV1's recipe; three of its four authors also wrote this paper."""
    igcv1.cifar(c, name)
    c.model.name = 'igcv2_c416_cifar'


def imagenet(c: ConfigDict) -> None:
    """IGCV1's recipe."""
    igcv1.imagenet(c)
    c.model.name = 'igcv2_1_0'

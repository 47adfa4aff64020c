"""One Inception-v4 and three Inception-ResNet-v2, averaged (https://arxiv.org/abs/1602.07261).

  python -m cls.main --config configs/inception_ensemble.py                 small, on the digits
  python -m cls.main --config configs/inception_ensemble.py:imagenet2012    the recipes of the two
  python -m cls.main --config configs/inception_ensemble.py:folder=DIR      the same, your images
  python -m cls.main --config configs/inception_ensemble.py:finetune,folder=DIR

An existing run, trained or imported, can serve as a member: --config.loaded.inception_v4=FOLDER.
Every field of a member can be overridden, for example --config.members.inception_resnet_v2_3.seed=7
or the weights to fine-tune: --config.members.inception_v4.init=FILE.

Expected on the digits: above 98 % (measured: cls/models/README.md). Published, not reproduced here:
ImageNet validation, 144 crops of each image, top-1 83.5, top-5 96.9 (Table 5).
"""

from ml_collections import ConfigDict

from cls.recipes import inception_resnet_v2, inception_v4

MEMBERS = {
    'inception_v4': inception_v4,
    'inception_resnet_v2_1': inception_resnet_v2,
    'inception_resnet_v2_2': inception_resnet_v2,
    'inception_resnet_v2_3': inception_resnet_v2,
}


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR. Each member has a seed."""
    c = ConfigDict()
    c.members = ConfigDict()
    c.loaded = ConfigDict()  # member -> folder of a run to take instead of training; '': train it
    for seed, (name, system) in enumerate(MEMBERS.items()):
        member = system.get_config(argument)
        member.seed = seed
        if member.data.name == 'digits':
            member.duration = '6 epochs'
        c.members[name] = member
        c.loaded[name] = ''
    return c

"""One Inception-v4 and three Inception-ResNet-v2, averaged (https://arxiv.org/abs/1602.07261).

  python -m cls.main --config configs/inception_ensemble.py                 small, embedded digits
  python -m cls.main --config configs/inception_ensemble.py:imagenet2012    the recipes of the two
  python -m cls.main --config configs/inception_ensemble.py:folder=DIR      the same, your images
  python -m cls.main --config configs/inception_ensemble.py:finetune,folder=DIR

A run that is there already, trained or imported, takes a member's place:
--config.loaded.inception_v4=FOLDER. Anything of a member can be changed:
--config.members.inception_resnet_v2_3.seed=7, and where it is fine-tuned from is its own too:
--config.members.inception_v4.init=FILE.

Expected, digits: above 98 % (measured: see the README). The paper's, which has not been trained
here: ImageNet validation, 144 crops of each image, top-1 83.5, top-5 96.9 (Table 5).
"""

from ml_collections import ConfigDict

from configs import inception_resnet_v2, inception_v4

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

"""Res2Net (Gao et al. 2019, https://arxiv.org/abs/1904.01169): the paper's recipes.

  python -m cls.main --config configs/res2net.py                  small, on embedded digits
  python -m cls.main --config configs/res2net.py:cifar100         Res2NeXt-29, 6c x 24w x 4s
  python -m cls.main --config configs/res2net.py:imagenet2012     Res2Net-50, 26w x 4s;
                                          variant=res2net50_26w_8s, res2next50, dla60_res2net
  python -m cls.main --config configs/res2net.py:folder=DIR       the ImageNet recipe, your images
  python -m cls.main --config configs/res2net.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1, not reproduced
here: ImageNet 26w x 4s 77.99, 26w x 8s 79.20, Res2NeXt-50 78.24, Res2Net-101 79.19, DLA-60 78.47
(Tables 1 to 3); CIFAR-100 83.02, 8c x 25w x 4s 83.07, 6c x 24w x 6s 83.21 (Table 4).
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, cifar=cifar, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """One block of each stage, in four scales."""
    common.use_digits(c)
    c.model.name = 'res2next29_6c_24w_4s_cifar'
    c.model.stage_sizes, c.model.widths = (1, 1, 1), (16, 32, 64)
    c.model.base_width, c.model.groups = 16, 2
    c.duration, c.batch = '40 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum, c.optim.weight_decay = 'sgd', 0.1, 0.9, 5e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'


def cifar(c: ConfigDict, name: str) -> None:
    """Sections 4.1 and 4.3: ResNeXt-29's recipe and code (1611.05431, section 5.3), for CIFAR-100.

    That is 300 epochs of 128 at a rate of 0.1, divided by 10 after 150 and 225, with a weight decay
    of 5e-4 and, from its code, Nesterov's momentum. The paper has no networks for CIFAR-10.
    """
    common.use_cifar(c, name)
    c.model.name = 'res2next29_6c_24w_4s_cifar'
    c.duration, c.batch = '300 epochs', 128
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.nesterov = True
    c.optim.weight_decay, c.optim.decay_mask = 5e-4, 'all'
    c.schedule.name, c.schedule.milestones = 'step', ('150 epochs', '225 epochs')


def imagenet(c: ConfigDict) -> None:
    """Section 4.1: 100 epochs of 256 over four GPUs, the rate divided by 10 every 30 epochs.

    For the augmentation it refers to both ResNet and Inception-v3, which differ, and names only
    random crops. The paper trains in PyTorch, so the augmentation is that of PyTorch's recipes: a
    random resized crop, mirrored. For tests it refers to ResNet's crops: here the center crop.
    """
    common.use_imagenet(c)
    c.model.name = 'res2net50_26w_4s'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 64
    c.duration, c.batch = '100 epochs', 256
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop = 'random_resized'
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay, c.optim.decay_mask = 1e-4, 'all'
    c.schedule.name, c.schedule.milestones = 'step', ('30 epochs', '60 epochs', '90 epochs')
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

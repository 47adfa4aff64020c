"""SKNet (Li et al. 2019, https://arxiv.org/abs/1903.06586): the paper's recipes.

  python -m cls.main --config configs/sknet.py                  small, on embedded digits
  python -m cls.main --config configs/sknet.py:imagenet2012     SKNet-50; variant=sknet101
  python -m cls.main --config configs/sknet.py:folder=DIR       the ImageNet recipe on your images
  python -m cls.main --config configs/sknet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1 from one crop,
not reproduced here: SKNet-50 79.21, SKNet-101 79.81 (Table 2). Not implemented: the paper's
networks for CIFAR and its changed ShuffleNets.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def sgd(c: ConfigDict) -> None:
    """Section 4.1. Batch norms are not decayed, as in the released Caffe networks."""
    c.optim.name, c.optim.momentum = 'sgd', 0.9
    c.optim.lr, c.optim.weight_decay, c.optim.decay_mask = 0.1, 1e-4, 'kernels'
    c.loss.label_smoothing = 0.1


def digits(c: ConfigDict) -> None:
    """A network of three blocks with two kernels of 4 groups, on digits of 16x16 pixels."""
    common.use_digits(c)
    sgd(c)
    c.data.image_size, c.data.pad = 16, 2
    c.model.name = 'sknet50'
    c.model.stage_sizes, c.model.widths = (1, 1, 1), (16, 32, 64)
    c.model.groups, c.model.fused_min = 4, (16, 16, 16)
    c.duration, c.batch = '40 epochs', 64
    c.optim.weight_decay = 5e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'


def imagenet(c: ConfigDict) -> None:
    """Section 4.1: 100 epochs of batches of 256 on eight devices, the rate / 10 every 30 epochs.

    Label smoothing is 0.1, as in the paper cited for it. By the authors' page the augmentation is
    SENet's: rotation by up to 10 degrees, noise of up to 20 (configs/senet.py).
    """
    common.use_imagenet(c)
    sgd(c)
    c.model.name = 'sknet50'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 32
    c.duration, c.batch = '100 epochs', 256
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop = 'random_resized'
    c.augment.rotation, c.augment.noise = 10.0, 20.0
    c.schedule.name, c.schedule.milestones = 'step', ('30 epochs', '60 epochs', '90 epochs')
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

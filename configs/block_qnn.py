"""Block-QNN (Zhong et al. 2018, https://arxiv.org/abs/1708.05552): networks of a RANDOM block.

  python -m cls.main --config configs/block_qnn.py                 small, on embedded digits
  python -m cls.main --config configs/block_qnn.py:cifar10         a random block, four a stage
  python -m cls.main --config configs/block_qnn.py:cifar100
  python -m cls.main --config configs/block_qnn.py:imagenet2012    the same block, three a stage
  python -m cls.main --config configs/block_qnn.py:folder=DIR      the ImageNet recipe, your images
  python -m cls.main --config configs/block_qnn.py:finetune,folder=DIR --config.init=FILE
  ... --config.model.genotype=FILE.json                            any block of the space:
                                      {"layers": [[1,1,3,0,0], [2,5,0,0,1], [3,7,0,0,0]]}

The paper's blocks are not available (cls/models/block_qnn.py), so these networks do not reproduce
its accuracies: 96.46 on CIFAR-10, 81.94 on CIFAR-100 and 77.4 on ImageNet. Expected on the digits:
above 97 % (measured: cls/models/README.md).
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, cifar=cifar, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Two stages, each of one random block, on 8x8 digits."""
    common.use_digits(c)
    c.model.name = 'block_qnn_random0_cifar'
    c.model.filters, c.model.stage_sizes = 32, (1, 1)
    c.duration, c.batch = '30 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.05, 0.9
    c.optim.weight_decay = 5e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'


def cifar(c: ConfigDict, name: str) -> None:
    """300 epochs of batches of 128; a rate of 0.1, divided by 10 after epochs 150 and 225.

    As in the public implementation of the search (elenathfgs/BlockQNN_Keras), since the paper's own
    recipe is not available. That code has no weight decay (its 5e-4 decays the rate). Weight decay,
    padding and mirroring are those usual on CIFAR at the time, without cutout.
    """
    common.use_cifar(c, name)
    c.model.name = 'block_qnn_random0_cifar'
    c.duration, c.batch = '300 epochs', 128
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay = 5e-4
    c.schedule.name, c.schedule.milestones = 'step', ('150 epochs', '225 epochs')


def imagenet(c: ConfigDict) -> None:
    """ResNet's recipe, 90 epochs of batches of 256, since the paper's own is not available.

    With fb.resnet.torch's crops, without its color jitter; evaluated on one crop.
    """
    common.use_imagenet(c)
    c.model.name = 'block_qnn_random0_imagenet'
    c.model.dtype = 'bfloat16'
    c.duration, c.batch = '90 epochs', 256
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop = 'random_resized'
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay, c.optim.decay_mask = 1e-4, 'all'
    c.schedule.name, c.schedule.milestones = 'step', ('30 epochs', '60 epochs')
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

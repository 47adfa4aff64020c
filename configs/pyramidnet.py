"""PyramidNet (Han et al. 2017, https://arxiv.org/abs/1610.02915): the paper's recipes.

  python -m cls.main --config configs/pyramidnet.py                small, on embedded digits
  python -m cls.main --config configs/pyramidnet.py:cifar10        110, alpha 48;
                                                         variant=pyramidnet272_a200_cifar
  python -m cls.main --config configs/pyramidnet.py:imagenet2012   200, alpha 300;
                                                         variant=pyramidnet200_a450
  python -m cls.main --config configs/pyramidnet.py:folder=DIR     the ImageNet recipe, your images
  python -m cls.main --config configs/pyramidnet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1, not reproduced
here: CIFAR-10 and -100 110 with alpha 48: 95.38, 76.69, alpha 270: 96.27, 81.75, 272 with alpha
200: 96.69, 83.65; ImageNet, one crop of 224 pixels, alpha 300: 79.53, alpha 450: 79.89.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, cifar=cifar, imagenet=imagenet)


def sgd(c: ConfigDict) -> None:
    """Section 4.2, completed from fb.resnet.torch, the base of the authors' code."""
    c.optim.name, c.optim.momentum, c.optim.nesterov = 'sgd', 0.9, True
    c.optim.lr, c.optim.weight_decay, c.optim.decay_mask = 0.1, 1e-4, 'all'


def digits(c: ConfigDict) -> None:
    """Six bottleneck units, each 4 channels (times 4) wider than the one before."""
    common.use_digits(c)
    sgd(c)
    c.model.name = 'pyramidnet164_a270_cifar'
    c.model.stage_sizes, c.model.alpha = (2, 2, 2), 24
    c.duration, c.batch = '30 epochs', 64
    c.optim.weight_decay = 5e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'


def cifar(c: ConfigDict, name: str) -> None:
    """Section 4.2: 300 epochs of batches of 128, the rate divided by 10 at 150 and 225.

    The rate begins at 0.1 for CIFAR-10 and at 0.5 for CIFAR-100. fb.resnet.torch normalizes before
    padding, so the border of a crop has the mean color.
    """
    common.use_cifar(c, name)
    sgd(c)
    c.data.pad_mode = 'mean'
    c.model.name = 'pyramidnet110_a48_cifar'
    c.optim.lr = 0.5 if name == 'cifar100' else 0.1
    c.duration, c.batch = '300 epochs', 128
    c.schedule.name, c.schedule.milestones = 'step', ('150 epochs', '225 epochs')


def imagenet(c: ConfigDict) -> None:
    """Section 4.3: 120 epochs of batches of 128 from a rate of 0.05, divided by 10 three times.

    The images of fb.resnet.torch: crops of random size and shape, color jitter, PCA noise. Dropout
    of 0.5 is a part of pyramidnet200_a450. The paper's crops of 320 pixels, 80.8 with it:
    --config.data.eval_size=320 --config.data.eval_resize=320.
    """
    common.use_imagenet(c)
    sgd(c)
    c.model.name = 'pyramidnet200_a300'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 32
    c.optim.lr = 0.05
    c.duration, c.batch = '120 epochs', 128
    common.use_torch_images(c)
    c.schedule.name, c.schedule.milestones = 'step', ('60 epochs', '90 epochs', '105 epochs')
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

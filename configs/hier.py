"""hier (Liu et al. 2018, https://arxiv.org/abs/1711.00436): the paper's recipes.

  python -m cls.main --config configs/hier.py                   small, on embedded digits
  python -m cls.main --config configs/hier.py:cifar10           64 channels; variant=hier_c128_cifar
  python -m cls.main --config configs/hier.py:imagenet2012      the derived one, 63M parameters
  python -m cls.main --config configs/hier.py:folder=DIR        the ImageNet recipe, your images
  python -m cls.main --config configs/hier.py:finetune,folder=DIR --config.init=FILE

Other cells: --config.model.genotype=FILE; the search's proxy network has --config.model.cells=1
--config.model.features=16.

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1, not reproduced
here: CIFAR-10 96.25 with 64 channels, 96.37 with 128; ImageNet 79.7.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, cifar=cifar, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Two stages of a cell of three nodes, assembled from motifs of three nodes: all primitives.

    The evolved cell has eight times as many convolutions and compiles slowly on a CPU.
    """
    common.use_digits(c)
    c.model.name = 'hier_c64_cifar'
    c.model.genotype = {
        'levels': (
            (
                {'edges': ('separable_3x3', 'identity', 'max_3x3')},
                {'edges': ('depthwise_3x3', 'conv_1x1', 'avg_3x3')},
            ),
            ({'edges': ('motif1', 'motif2', 'motif1')},),
        )
    }
    c.model.features, c.model.stages, c.model.cells = 24, 2, 1
    c.duration, c.batch = '20 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay = 3e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'


def cifar(c: ConfigDict, name: str) -> None:
    """80k steps with batches of 256 at a rate of 0.1, divided by 10 after 40k, 60k and 70k.

    As NASLib quotes the paper. Momentum and weight decay are from memory; the augmentation is
    CIFAR's usual one.
    """
    common.use_cifar(c, name)
    c.model.name = 'hier_c64_cifar'
    c.duration, c.batch = '80000 steps', 256
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay = 3e-4
    c.schedule.name = 'step'
    c.schedule.milestones = ('40000 steps', '60000 steps', '70000 steps')
    c.eval.every = '5 percent'


def imagenet(c: ConfigDict) -> None:
    """200k steps with batches of 1,024 at 299 pixels, from memory.

    The steps at which the rate of 0.1 is divided by 10 are chosen in proportion to CIFAR's; the
    weight decay is chosen too. Crops and color distortions are Inception's, also from memory; one
    crop is evaluated.
    """
    common.use_imagenet(c)
    c.model.name = 'hier'
    c.model.dtype = 'bfloat16'
    c.duration, c.batch = '200000 steps', 1024
    c.data.image_size, c.data.eval_resize = 299, 342  # crop of 87.5 %
    c.data.train_crop, c.augment.distortion = 'random_resized', 'inception'
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay = 1e-4
    c.schedule.name = 'step'
    c.schedule.milestones = ('100000 steps', '150000 steps', '175000 steps')
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

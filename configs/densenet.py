"""DenseNet (Huang et al. 2017, https://arxiv.org/abs/1608.06993): the paper's recipes.

  python -m cls.main --config configs/densenet.py                small, on embedded digits
  python -m cls.main --config configs/densenet.py:cifar10        BC, L = 100, k = 12;
                                                       variant=densenet190_k40_bc_cifar
  python -m cls.main --config configs/densenet.py:svhn_cropped   L = 100, k = 24
  python -m cls.main --config configs/densenet.py:imagenet2012   DenseNet-121; variant=densenet264
  python -m cls.main --config configs/densenet.py:imagenet2012_modern   torchvision's later recipe
  python -m cls.main --config configs/densenet.py:folder=DIR     the ImageNet recipe, your images
  python -m cls.main --config configs/densenet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1, not reproduced
here: CIFAR-10 BC-100 (k = 12) 95.49, BC-250 (24) 96.38, BC-190 (40) 96.54; CIFAR-100 77.73, 82.40,
82.82; SVHN L = 100, k = 24 98.41 (Table 2); ImageNet, ten crops, 121: 76.39, 169: 77.92, 201:
78.54, 264: 79.20; one crop (--config.eval.protocol=single), 121: 74.98, 169: 76.20, 201: 77.42,
264: 77.85 (Table 3).
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, svhn_cropped, imagenet2012, folder.

    The last is written folder=DIR. There is a later recipe as well, imagenet2012_modern.
    """
    functions = {'digits': digits, 'cifar': cifar, 'svhn': svhn, 'imagenet': imagenet}
    return common.resolve(argument, **functions, modern=modern)


def sgd(c: ConfigDict) -> None:
    """Section 4.2; the authors' code decays all parameters."""
    c.optim.name, c.optim.momentum, c.optim.nesterov = 'sgd', 0.9, True
    c.optim.lr, c.optim.weight_decay, c.optim.decay_mask = 0.1, 1e-4, 'all'
    c.schedule.name = 'step'


def digits(c: ConfigDict) -> None:
    """DenseNet-BC with three blocks of three layers, k = 12, on 8x8 digits, with dropout."""
    common.use_digits(c)
    sgd(c)
    c.model.name = 'densenet100_k12_bc_cifar'
    c.model.block_sizes, c.model.dropout_rate = (3, 3, 3), 0.1
    c.duration, c.batch = '40 epochs', 64
    c.optim.weight_decay = 5e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'


def cifar(c: ConfigDict, name: str) -> None:
    """Section 4.2 with the standard augmentation (C10+, C100+), so without dropout.

    Without augmentation (C10, C100): --config.data.train_crop=none --config.data.flip=False
    --config.model.dropout_rate=0.2. Each set has its own mean and deviation, as in fb.resnet.torch.
    That code normalizes images before padding, so the border of a crop has the mean color.
    """
    common.use_cifar(c, name)
    sgd(c)
    c.data.pad_mode = 'mean'
    c.model.name, c.model.dropout_rate = 'densenet100_k12_bc_cifar', 0.0
    c.duration, c.batch = '300 epochs', 64
    c.schedule.milestones = ('150 epochs', '225 epochs')


def svhn(c: ConfigDict) -> None:
    """Section 4.2: 40 epochs, with dropout, as SVHN is not augmented.

    The paper holds out 6,000 training images and reports the test error of the epoch that is best
    on them.
    """
    common.use_svhn(c)
    sgd(c)
    c.model.name, c.model.dropout_rate = 'densenet100_k24_cifar', 0.2
    c.duration, c.batch = '40 epochs', 64
    c.schedule.milestones = ('20 epochs', '30 epochs')


def imagenet(c: ConfigDict) -> None:
    """Section 4.2: 90 epochs of batches of 256, the rate divided by 10 after 30 and 60.

    Images as in fb.resnet.torch, the base of the authors' code. The paper reports ten crops and one
    crop (Table 3).
    """
    common.use_imagenet(c)
    sgd(c)
    c.model.name = 'densenet121'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 64  # as on the four devices of the authors' command
    c.duration, c.batch = '90 epochs', 256
    common.use_torch_images(c)
    c.schedule.milestones = ('30 epochs', '60 epochs')
    c.eval.protocol = 'ten_crop'
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'


def modern(c: ConfigDict) -> None:
    """Torchvision's recipe of its weights IMAGENET1K_V2, of which DenseNet has none."""
    common.use_torchvision_v2(c)
    c.model.name = 'densenet121'

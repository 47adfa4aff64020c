"""ResNet (He et al. 2016, https://arxiv.org/abs/1512.03385): the paper's recipes.

  python -m cls.main --config configs/resnet.py                  small, on embedded digits
  python -m cls.main --config configs/resnet.py:cifar10          ResNet-56; variant=resnet110_cifar
  python -m cls.main --config configs/resnet.py:imagenet2012     ResNet-50; variant=resnet152_v1
  python -m cls.main --config configs/resnet.py:imagenet2012_modern   ResNet strikes back, A1;
                                       also imagenet2012_a2, imagenet2012_a3
  python -m cls.main --config configs/resnet.py:folder=DIR       the ImageNet recipe on your images
  python -m cls.main --config configs/resnet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 98 % in two minutes on two CPU cores (measured: cls/models/README.md).
Published top-1, not reproduced here: CIFAR-10 20: 91.25, 32: 92.49, 44: 92.83, 56: 93.03, 110:
93.57 (Table 6); ImageNet, ten crops, 34: 75.48, 50: 77.15, 101: 78.25, 152: 78.57 (Table 3). ResNet
strikes back, one crop, 50: A1 80.4, A2 79.8, A3 78.1 (2110.00476, Table 1).
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, imagenet2012 or folder=DIR.

    There are later recipes as well: imagenet2012_modern, imagenet2012_a2 and imagenet2012_a3.
    """
    arms = {'imagenet2012_a2': a2, 'imagenet2012_a3': a3}
    functions = {'digits': digits, 'cifar': cifar, 'imagenet': imagenet, 'modern': a1}
    return common.resolve(argument, **functions, further=arms)


def sgd(c: ConfigDict) -> None:
    """Sections 3.4 and 4.2. Weight decay covers all parameters, Caffe's default."""
    c.optim.name, c.optim.momentum = 'sgd', 0.9
    c.optim.lr, c.optim.weight_decay, c.optim.decay_mask = 0.1, 1e-4, 'all'


def digits(c: ConfigDict) -> None:
    """ResNet-20 for CIFAR on 8x8 digits."""
    common.use_digits(c)
    sgd(c)
    c.model.name = 'resnet20_cifar'
    c.duration, c.batch = '40 epochs', 64
    c.optim.weight_decay = 5e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'


def cifar(c: ConfigDict, name: str) -> None:
    """Section 4.2: 64k steps of 128, the rate divided by 10 at 32k and 48k.

    The paper tunes on a split of 45k and 5k images and reports the test error of training on all
    50k, as here. For ResNet-110 it starts at a rate of 0.01 until the training error is below 80 %,
    about 400 steps. The nearest setting is --config.schedule.warmup='400 steps'
    --config.schedule.warmup_init=0.01.
    """
    common.use_cifar(c, name)
    sgd(c)
    c.model.name = 'resnet56_cifar'
    c.duration, c.batch = '64000 steps', 128
    c.schedule.name, c.schedule.milestones = 'step', ('32000 steps', '48000 steps')


def imagenet(c: ConfigDict) -> None:
    """Section 3.4: batches of 256, 600k steps at most, the rate divided by 10 on plateaus.

    The plateaus are not published: public reproductions of the paper use every 30 epochs of 90. The
    standard color augmentation is AlexNet's PCA noise. Evaluation is on the ten crops of Table 3;
    Table 4's, dense on five scales (section 3.4), is --config.eval.protocol=dense_flip
    --config.eval.scales=224,256,384,480,640. The paper subtracts the mean of each pixel; here it is
    the mean of each channel.
    """
    common.use_imagenet(c)
    sgd(c)
    c.model.name = 'resnet50'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 32  # as on eight devices of 32 images each
    c.duration, c.batch = '90 epochs', 256
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop, c.data.scale = 'scale_jitter', (256, 480)
    c.augment.lighting = 0.1
    c.eval.protocol = 'ten_crop'
    c.schedule.name, c.schedule.milestones = 'step', ('30 epochs', '60 epochs')
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'


def a1(c: ConfigDict) -> None:
    """ResNet strikes back, procedure A1: 600 epochs."""
    common.use_strikes_back(c, 'A1')
    c.model.name = 'resnet50'


def a2(c: ConfigDict) -> None:
    """ResNet strikes back, procedure A2: 300 epochs."""
    common.use_strikes_back(c, 'A2')
    c.model.name = 'resnet50'


def a3(c: ConfigDict) -> None:
    """ResNet strikes back, procedure A3: 100 epochs on 160 pixels."""
    common.use_strikes_back(c, 'A3')
    c.model.name = 'resnet50'

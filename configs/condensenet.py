"""CondenseNet (Huang et al. 2018, https://arxiv.org/abs/1711.09224): the paper's recipes.

  python -m cls.main --config configs/condensenet.py                small, on embedded digits
  python -m cls.main --config configs/condensenet.py:cifar10        CondenseNet-86;
                                                variant=condensenet182_cifar_learned
  python -m cls.main --config configs/condensenet.py:imagenet2012   C = G = 4;
                                                variant=condensenet74_c8_g8_learned
  python -m cls.main --config configs/condensenet.py:folder=DIR     the ImageNet recipe, your images
  python -m cls.main --config configs/condensenet.py:finetune,folder=DIR --config.init=FILE
  python -m cls.tools.condense --workdir RUN --output FOLDER        a finished run as group
                                                                    convolutions, for inference

The learned form (`..._learned`) is trained; the converted form has the same accuracy.

Expected on the digits: above 97 % (measured: cls/models/README.md). Published top-1, not reproduced
here: CIFAR-10 86 94.94, 182 96.24; CIFAR-100 76.36, 81.53; ImageNet C = G = 4 73.8, C = G = 8 71.0
(the authors' README).
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, cifar10, cifar100, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, cifar=cifar, imagenet=imagenet)


def sgd(c: ConfigDict) -> None:
    """Section 4, training details; the authors' code decays all parameters."""
    c.optim.name, c.optim.momentum, c.optim.nesterov = 'sgd', 0.9, True
    c.optim.lr, c.optim.weight_decay, c.optim.decay_mask = 0.1, 1e-4, 'all'
    c.schedule.name = 'cosine'


def digits(c: ConfigDict) -> None:
    """Three blocks of two layers, condensed by 4 in three stages, on 8x8 digits."""
    common.use_digits(c)
    sgd(c)
    c.model.name = 'condensenet50_cifar_learned'
    c.model.stage_sizes, c.model.dropout_rate, c.model.group_lasso = (2, 2, 2), 0.1, 1e-5
    c.duration, c.batch = '40 epochs', 64
    c.optim.weight_decay = 5e-4
    c.schedule.warmup = '2 epochs'


def cifar(c: ConfigDict, name: str) -> None:
    """Section 4.1: 300 epochs of batches of 64; CondenseNet-182 takes 600.

    CondenseNet-182: --config.duration='600 epochs' --config.model.dropout_rate=0.1. The authors'
    command (script.sh) has neither dropout nor group lasso; CIFAR-100 is normalized by its own mean
    and deviation (main.py).
    """
    common.use_cifar(c, name)
    sgd(c)
    c.model.name = 'condensenet86_cifar_learned'
    c.duration, c.batch = '300 epochs', 64


def imagenet(c: ConfigDict) -> None:
    """Section 4.2: 120 epochs of batches of 256, dropout 0.1, a group lasso of 1e-5.

    Batch statistics are over 32 examples, as on the eight devices of the authors' command. Images
    are cropped and mirrored, without color jitter (main.py); one crop from 256 pixels is evaluated.
    """
    common.use_imagenet(c)
    sgd(c)
    c.model.name = 'condensenet74_c4_g4_learned'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 32
    c.model.dropout_rate, c.model.group_lasso = 0.1, 1e-5
    c.duration, c.batch = '120 epochs', 256
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop = 'random_resized'
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

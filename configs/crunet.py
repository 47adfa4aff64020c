"""CRU-Net (Chen et al. 2018, https://arxiv.org/abs/1703.02180): the authors' recipe.

  python -m cls.main --config configs/crunet.py                  a small one on embedded digits
  python -m cls.main --config configs/crunet.py:imagenet2012     CRU-Net-56; variant=crunet116
  python -m cls.main --config configs/crunet.py:folder=DIR       the ImageNet recipe, your images

Expected, digits: above 98 % (measured: see the README). The authors' top-1 from one crop, which has
not been trained here: CRU-Net-56 78.1, CRU-Net-116 79.4.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """A residual and a collective stage, where pairs of units share kernels, on 32 pixels."""
    common.use_digits(c)
    c.data.image_size = 32
    c.data.pad = 4
    c.model.name = 'crunet56'
    c.model.block_sizes, c.model.collective, c.model.sharing = (1, 4), (0, 64), 2
    c.model.width, c.model.inner, c.model.groups, c.model.stem_features = 48, 32, 4, 24
    c.duration, c.batch = '30 epochs', 64
    c.optim.name, c.optim.momentum = 'sgd', 0.9
    c.optim.lr, c.optim.weight_decay = 0.1, 5e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'


def imagenet(c: ConfigDict) -> None:
    """Crops and normalisation as in the authors' README (https://github.com/cypw/CRU-Net).

    It says nothing of the optimiser; here batch, rate, momentum and decay are those of ResNeXt
    (1611.05431, section 5), from which the nets are derived, with 90 epochs. Not yet here: the
    README's jitter of hue, saturation and lightness.
    """
    common.use_imagenet(c)
    c.model.name = 'crunet56'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 32
    c.duration, c.batch = '90 epochs', 256
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop = 'random_resized'
    c.data.mean, c.data.std = (124.0, 117.0, 104.0), (1 / 0.0167,) * 3
    c.optim.name, c.optim.momentum = 'sgd', 0.9
    c.optim.lr, c.optim.weight_decay, c.optim.decay_mask = 0.1, 1e-4, 'all'
    c.schedule.name, c.schedule.at = 'step', ('30 epochs', '60 epochs', '80 epochs')
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

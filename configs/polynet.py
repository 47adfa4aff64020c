"""PolyNet (Zhang et al. 2017, https://arxiv.org/abs/1611.05725): the paper's recipe.

  python -m cls.main --config configs/polynet.py                  small, on embedded digits
  python -m cls.main --config configs/polynet.py:imagenet2012     Very Deep PolyNet at 331 pixels;
                                                                  variant=polynet_mixed_b
  python -m cls.main --config configs/polynet.py:folder=DIR       the ImageNet recipe, your images
  python -m cls.main --config configs/polynet.py:finetune,folder=DIR --config.init=FILE

Expected on the digits: above 95 % (measured: cls/models/README.md). Published top-1, not reproduced
here: ImageNet 81.29 from a single crop of 331 pixels, 82.64 from many crops.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """One module of each kind, at an eighth of the channels and the smallest image size."""
    common.use_digits(c)
    c.data.image_size, c.data.pad = 75, 9
    c.model.name = 'polynet'
    c.model.width, c.model.path_drop_rate = 0.125, 0.25
    c.model.stage_a, c.model.stage_b, c.model.stage_c = ('2-way',), ('poly-3',), ('mpoly-2',)
    c.duration, c.batch = '20 epochs', 64
    c.optim.name, c.optim.lr, c.optim.momentum, c.optim.weight_decay = 'sgd', 0.1, 0.9, 5e-4
    c.schedule.name, c.schedule.warmup = 'cosine', '1 epochs'


def imagenet(c: ConfigDict) -> None:
    """Section 4: RMSProp, 560k steps of 512 over 32 GPUs, the rate divided by 10 every 160k.

    Stochastic paths are on from the start; the paper turns them on when the network begins to
    overfit: --config.model.path_drop_rate=0 for the steps before. The paper names neither momentum
    nor weight decay: here there is no momentum, and the decay is Inception-v3's. Its protocol of
    many crops could not be determined; Inception's 144 replace it:
    --config.eval.protocol=crops_144. Not implemented: initialization by insertion, with half of the
    modules from a trained Inception-ResNet, as config.init needs weights for all of them.
    """
    common.use_imagenet(c)
    c.model.name = 'polynet'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 16
    c.duration, c.batch = '560000 steps', 512
    c.data.image_size, c.data.eval_resize = 331, 378  # a crop of 87.5 %
    c.data.train_crop = 'random_resized'
    c.optim.name, c.optim.lr, c.optim.momentum = 'rmsprop', 0.45, 0.0
    c.optim.decay, c.optim.eps = 0.9, 1.0
    c.optim.weight_decay = 4e-5
    c.schedule.name = 'step'
    c.schedule.milestones = ('160000 steps', '320000 steps', '480000 steps')
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '5000 steps', '25000 steps'

"""ProxylessNAS (Cai et al. 2019, https://arxiv.org/abs/1812.00332): the authors' recipe.

  python -m cls.main --config configs/proxylessnas.py                 small, on embedded digits
  python -m cls.main --config configs/proxylessnas.py:imagenet2012    for mobile devices;
                                variant=proxyless_gpu, proxyless_cpu, proxyless_mobile14
  python -m cls.main --config configs/proxylessnas.py:folder=DIR      its recipe on your images
  python -m cls.main --config configs/proxylessnas.py:finetune,folder=DIR --config.init=FILE

Any other network of the space: --config.model.genotype=FILE.json, with the stages' strings.
Expected on the digits: above 97 % (measured: cls/models/README.md). Published top-1 from one crop,
not reproduced here: ImageNet mobile 74.6, GPU 75.1, CPU 75.3; mobile14: the authors' network has
76.7. The search is configs/search/proxylessnas.py. Not implemented: the paper's networks for
CIFAR-10, based on PyramidNet.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012 or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet)


def digits(c: ConfigDict) -> None:
    """Five blocks with all windows and both expansions, on digits of 16 pixels."""
    common.use_mobile_digits(c, duration='20 epochs', weight_decay=4e-5)
    c.model.name = 'proxyless_mobile'
    c.model.genotype = {
        'stages': (
            ('r1_k3_s1_e1_o16',),
            ('r1_k7_s2_e6_o24', 'r1_k3_s1_e3_o24'),
            ('r1_k5_s1_e6_o40', 'r1_k5_s1_e3_o40'),
        )
    }
    c.model.stem_features, c.model.head_features = 16, 128


def imagenet(c: ConfigDict) -> None:
    """The authors' training/main.py, which reaches the paper's accuracy by its README.

    Eight GPUs of 64 images with a rate of 0.0125 each: the rate grows to their sum in 5 epochs and
    then follows a cosine, for 300 epochs in total; momentum 0.9, weight decay 5e-5 of all
    parameters, label smoothing 0.1. (The defaults of search/imagenet_run_exp.py differ: a rate of
    0.05 for 256 images, Nesterov momentum, weight decay 4e-5 without the norms, no warm-up.) The
    README's command has label smoothing and color jitter.
    """
    common.use_imagenet(c)
    c.model.name = 'proxyless_mobile'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 64
    c.duration, c.batch = '300 epochs', 512
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop = 'random_resized'
    c.augment.brightness = c.augment.contrast = c.augment.saturation = 0.4
    c.augment.hue = 0.1
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay, c.optim.decay_mask = 5e-5, 'all'
    c.schedule.name, c.schedule.warmup, c.schedule.warmup_init = 'cosine', '5 epochs', 0.0125
    c.loss.label_smoothing = 0.1
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'

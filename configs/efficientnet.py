"""EfficientNet (Tan & Le 2019, https://arxiv.org/abs/1905.11946): the paper's recipe.

  python -m cls.main --config configs/efficientnet.py                 small, on embedded digits
  python -m cls.main --config configs/efficientnet.py:imagenet2012    B0
  python -m cls.main --config configs/efficientnet.py:imagenet2012_modern   timm's later recipe
  python -m cls.main --config configs/efficientnet.py:folder=DIR      its recipe on your images
  python -m cls.main --config configs/efficientnet.py:finetune,folder=DIR --config.init=FILE

Larger variants take larger images and are evaluated on a crop of 87.5 %: variant=tf_efficientnet_b1
--config.data.image_size=240 --config.data.eval_resize=274; b2: 260 and 297; b3: 300, 343; b4: 380,
434; b5: 456, 521; b6: 528, 603; b7: 600, 686. Another base network:
--config.model.genotype=FILE.json, with the stages' strings; scaled: --config.model.width=1.1
--config.model.depth=1.2.

Expected on the digits: above 98 % (measured: cls/models/README.md). Published top-1 from one crop,
not reproduced here: ImageNet B0 77.1, B1 79.1, B2 80.1, B3 81.6, B4 82.9, B5 83.6, B6 84.0, B7 84.3
(Table 2). Not implemented: the paper's transfer to CIFAR and other data sets.
"""

from ml_collections import ConfigDict

from cls.recipes import common


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, imagenet2012, imagenet2012_modern or folder=DIR."""
    return common.resolve(argument, digits=digits, imagenet=imagenet, modern=modern)


def digits(c: ConfigDict) -> None:
    """A base of three stages, scaled with phi = 1 to two blocks in each, on digits of 16 pixels."""
    common.use_mobile_digits(c, duration='15 epochs', weight_decay=1e-5, ema=0.98)
    c.model.name = 'tf_efficientnet_b0'
    c.model.genotype = {
        'stages': (
            ('r1_k3_s1_e1_o16_se0.25',),
            ('r1_k3_s2_e6_o24_se0.25',),
            ('r1_k5_s1_e6_o40_se0.25',),
        )
    }
    c.model.width, c.model.depth = 1.1, 1.2
    c.model.bn_momentum, c.model.drop_path_rate = 0.9, 0.1


def imagenet(c: ConfigDict) -> None:
    """Section 5.2, completed from the authors' code (efficientnet/main.py, utils.py).

    RMSProp with decay and momentum 0.9, a rate of 0.256 times 0.97 every 2.4 epochs, weight decay
    1e-5, dropout 0.2 (B0) to 0.5 (B7), survival probability 0.8. The code: 350 epochs, a rate of
    0.016 for 256 images, so batches of 4,096; 5 epochs of warm-up, RMSProp's epsilon 1e-3, label
    smoothing 0.1, averages of 0.9999, no weight decay of the norms, and batch statistics over 128
    images; TensorFlow's bicubic resizing and AutoAugment's policy v0 (preprocessing.py). Its first
    version evaluates a crop of n from n + 32 pixels (from memory), the same for B0.

    The paper stops early by 25k random images held out of the training set, and evaluates that
    checkpoint on ImageNet's validation set. Here 1.95 % of each class are held out, the weights
    that are best by them are kept, and the validation set is evaluated once, as test/....
    """
    common.use_imagenet(c)
    c.model.name = 'tf_efficientnet_b0'
    c.model.dtype = 'bfloat16'
    c.model.bn_group = 128
    c.duration, c.batch = '350 epochs', 4096
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop, c.data.interpolation = 'random_resized', 'tf_bicubic'
    c.augment.policy = 'autoaugment_v0'
    c.optim.name, c.optim.lr = 'rmsprop', 0.256
    c.optim.decay, c.optim.momentum, c.optim.eps = 0.9, 0.9, 1e-3
    c.optim.weight_decay, c.optim.decay_mask = 1e-5, 'not_norms'
    c.schedule.name, c.schedule.gamma, c.schedule.every = 'exponential', 0.97, '2.4 epochs'
    c.schedule.staircase, c.schedule.warmup = True, '5 epochs'
    c.loss.label_smoothing = 0.1
    c.ema = 0.9999
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '1 epochs', '5 epochs'
    c.eval.validation, c.checkpoint.best = '0.0195', 'validation_ema/top1'


def modern(c: ConfigDict) -> None:
    """Timm's recipe of efficientnet_b0 (published top-1: 77.7), with PyTorch's padding.

    Dropout 0.2 and drop path 0.2 are the variant's.
    """
    common.use_timm_mobile(c, epochs=450, batch=768, lr=0.048, gamma=0.97)
    c.model.name = 'efficientnet_b0'

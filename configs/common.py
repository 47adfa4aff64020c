"""The arms and data sets of recipes. The fields and their defaults: cls/config/defaults.py."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from cls.config import presets
from cls.config.defaults import base
from cls.config.files import UnknownArm
from cls.errors import UserError, nearest

__all__ = ['arm', 'base', 'resolve']


def arm(argument: str, arms: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Parses an argument: 'ARM,option=value,...', 'folder=DIR,...' or 'finetune,folder=DIR'.

    Returns the arm, 'digits' by default, and the options: `variant`, and `folder` or `data`, as
    csv:FILE.

    Args:
      argument: the text after the colon.
      arms: those of the config, and one line about each.

    Raises:
      UnknownArm: an unknown arm or option; the message lists the known ones.
      UserError: an option without its arm, or an arm without its option.
    """
    parts = [part for part in argument.split(',') if part]
    names = [part for part in parts if '=' not in part]
    options = dict(part.split('=', 1) for part in parts if '=' in part)
    own = sorted({'folder', 'data'} & options.keys())
    chosen = names[0] if names else 'folder' if own else 'digits'
    for name, choices in (
        (chosen, arms),
        *((option, ('variant', 'folder', 'data')) for option in options),
    ):
        if name not in choices or len(names) > 1:
            raise UnknownArm(
                f'the config has no {argument!r}: write one of {", ".join(arms)}, then '
                f'variant=NAME if wanted, with commas between.{nearest(name, choices)}',
                arms,
            )
    given = [option for option in own if options[option]]
    if len(own) > 1 or (chosen in ('folder', presets.NAME)) != bool(given):
        raise UserError(
            f'{argument!r}: the arms folder and finetune, and no others, take folder=DIR or '
            'data=csv:FILE, as in finetune,folder=DIR'
        )
    if options.get('variant') == '':
        raise UserError(f'{argument!r}: variant= needs the name of one')
    return chosen, options


def resolve(
    argument: str,
    *,
    digits: Callable[[ConfigDict], None],
    cifar: Callable[[ConfigDict, str], None] | None = None,
    svhn: Callable[[ConfigDict], None] | None = None,
    mnist: Callable[[ConfigDict], None] | None = None,
    imagenet: Callable[[ConfigDict], None] | None = None,
    modern: Callable[[ConfigDict], None] | None = None,
    further: Mapping[str, Callable[[ConfigDict], None]] | None = None,
) -> ConfigDict:
    """Returns the config of an argument: the defaults, changed by the function of its arm.

    Args:
      argument: the text after the colon, see `arm`.
      digits: the default arm.
      cifar: the arms cifar10 and cifar100; takes the name of the arm.
      svhn: the arm svhn_cropped.
      mnist: the arm mnist.
      imagenet: the arm imagenet2012; with other images the arm folder=DIR, and with another recipe
        for its model the arm finetune.
      modern: the arm imagenet2012_modern: a recipe that is later than the paper.
      further: other arms by their names.

    Raises UnknownArm.
    """
    functions = {'digits': digits, 'cifar10': cifar, 'cifar100': cifar}
    functions |= {'svhn_cropped': svhn, 'mnist': mnist, 'imagenet2012': imagenet}
    functions |= {'imagenet2012_modern': modern, **(further or {})}
    functions = {name: function for name, function in functions.items() if function}
    arms = {name: summary(function) for name, function in functions.items()}
    if imagenet:
        arms |= {'folder': 'folder=DIR: imagenet2012 with the images of DIR/train and DIR/val'}
        arms |= {presets.NAME: f'{presets.NAME},folder=DIR: fine-tunes weights (config.init)'}
    chosen, options = arm(argument, arms)
    c = base()
    if chosen in ('cifar10', 'cifar100'):
        cifar(c, chosen)
    else:
        functions.get(chosen, imagenet)(c)
    if chosen == presets.NAME:
        c = fine_tuning_of(c)
    if 'folder' in options:
        use_own(c, f'folder:{options["folder"]}')
    elif 'data' in options:
        use_own(c, options['data'])
    c.model.name = options.get('variant', c.model.name)
    return c


def summary(function: Callable) -> str:
    """Returns the first line of a function's docstring, without its period."""
    return (function.__doc__ or '').partition('\n')[0].rstrip('.')


def use_digits(c: ConfigDict) -> None:
    """The embedded 8x8 handwritten digits: shifted by up to a pixel, never mirrored."""
    c.data.name = 'digits'
    c.data.image_size = 8
    c.data.train_crop, c.data.pad = 'pad', 1
    c.data.mean, c.data.std = (78.0,), (96.0,)  # of the training images, rounded


def use_mobile_digits(
    c: ConfigDict, *, duration: str, weight_decay: float, ema: float = 0.0, size: int = 16
) -> None:
    """The enlarged digits and the recipe of the small mobile networks.

    Args:
      c: the config.
      duration: of the run.
      weight_decay: of the kernels.
      ema: decay of the average of the weights; 0: none.
      size: pixels; the shift stays that of one original pixel.
    """
    use_digits(c)
    c.data.image_size, c.data.pad = size, size // 8
    c.duration, c.batch = duration, 64
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.1, 0.9
    c.optim.weight_decay, c.optim.clip_norm = weight_decay, 2.0
    c.schedule.name, c.schedule.warmup = 'cosine', '2 epochs'
    c.ema = ema


def use_cifar(c: ConfigDict, name: str) -> None:
    """CIFAR-10 or -100: padded by 4, cropped, mirrored (Lee et al. 2015, as He et al. 2016).

    Normalized by the mean and deviation of the data set, as in fb.resnet.torch.
    """
    c.data.name = f'tfds:{name}'
    c.data.image_size = 32
    c.data.train_crop, c.data.pad, c.data.flip = 'pad', 4, True
    c.data.mean, c.data.std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    if name == 'cifar100':
        c.data.mean, c.data.std = (129.3, 124.1, 112.4), (68.2, 65.4, 70.4)


def use_svhn(c: ConfigDict) -> None:
    """SVHN's cropped digits with the 531,131 extra training images; not augmented."""
    c.data.name = 'tfds:svhn_cropped'
    c.data.train_split = 'train+extra'
    c.data.image_size = 32
    c.data.mean, c.data.std = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)


def use_mnist(c: ConfigDict) -> None:
    """MNIST: gray, 28x28; normalized by the mean and deviation of the training set's pixels."""
    c.data.name = 'tfds:mnist'
    c.data.image_size = 28
    c.data.mean, c.data.std = (33.3,), (78.6,)


def use_imagenet(c: ConfigDict) -> None:
    """ImageNet 2012, evaluated on its validation set."""
    c.data.name = 'tfds:imagenet2012'
    c.data.flip = True
    c.data.mean, c.data.std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    c.data.workers = 8


def use_own(c: ConfigDict, name: str) -> None:
    """Images of a user's own, as folder:DIR or csv:FILE, in place of ImageNet's."""
    c.data.name = name
    c.data.workers = 0
    if 'num_classes' in c.model:
        del c.model.num_classes  # as many as the data have


def fine_tuning_of(recipe: ConfigDict) -> ConfigDict:
    """Returns the fine-tuning recipe for a model, before the images are counted.

    The model and the weight of its auxiliary heads are those of the recipe; see
    cls/config/presets.py for the rest.
    """
    c = base()
    c.preset = presets.NAME
    c.model, c.loss.aux_weight = recipe.model, recipe.loss.aux_weight
    c.model.dtype = 'float32'
    if 'bn_group' in c.model:
        c.model.bn_group = 0
    c.data.train_crop, c.data.area, c.data.flip = 'random_resized', (0.25, 1.0), True
    c.optim.name, c.optim.weight_decay, c.optim.clip_norm = 'adamw', 0.01, 1.0
    c.schedule.name, c.schedule.warmup = 'cosine', '10 percent'
    c.log_every, c.checkpoint.every, c.eval.every = '2 percent', '10 percent', '10 percent'
    return c


def use_torch_images(c: ConfigDict) -> None:
    """The training images of fb.resnet.torch (datasets/imagenet.lua): crops, jitter, PCA noise.

    Crops of 8 % of the image's area or more, jitter of 0.4, noise of 0.1; one crop in evaluation.
    Torch's bicubic resizing has no antialiasing: tf_bicubic is the nearest to it (Torch aligns
    corners). It samples the ratio of the crop's sides uniformly, not its logarithm.
    """
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop, c.data.interpolation = 'random_resized', 'tf_bicubic'
    c.augment.brightness = c.augment.contrast = c.augment.saturation = 0.4
    c.augment.lighting = 0.1


def use_inception_images(c: ConfigDict, size: int) -> None:
    """The images of slim's inception_preprocessing.py: crops of 5 % or more, distorted colors.

    Pixels from -1 to 1; evaluation on the central 87.5 % (slim resizes it to a square, here the
    aspect ratio stays). Color distortions are those of Inception's own code; slim's default, its
    fast mode, has no hue and contrast: inception_fast. Bilinear resizing without antialiasing on
    TensorFlow 2's grid (slim: TensorFlow 1's).
    """
    c.data.image_size, c.data.eval_resize = size, round(size / 0.875)
    c.data.train_crop, c.data.area = 'random_resized', (0.05, 1.0)
    c.data.interpolation = 'tf_bilinear'
    c.data.mean, c.data.std = (127.5,) * 3, (127.5,) * 3
    c.augment.distortion = 'inception'


def use_strikes_back(c: ConfigDict, procedure: str) -> None:
    """ResNet strikes back (Wightman et al. 2021, 2110.00476), Table 2: procedure A1, A2 or A3.

    LAMB with a cosine and 5 epochs of warm-up, binary cross-entropy, repeated augmentation in A1
    and A2, RandAugment, mixup and CutMix; evaluation on the central 95 % of 224 pixels. From timm,
    whose code the paper uses, in its arguments for these weights (from memory): three repeats,
    targets above 0.2 count as 1, LAMB's epsilon 1e-6 and its gradients clipped at a norm of 1, no
    weight decay of norms and biases, a warm-up from 1e-4. Batches of 2,016, not 2,048: three
    repeats divide them. Interpolation is bicubic, timm's is bilinear or bicubic by chance.
    Stochastic depth is 0.05 in A1 and A2, a field of the models of ResNet and SENet.
    """
    numbers = {
        'A1': ('600 epochs', 224, 5e-3, 0.01, 7.0, 0.2, 0.1),
        'A2': ('300 epochs', 224, 5e-3, 0.02, 7.0, 0.1, 0.0),
        'A3': ('100 epochs', 160, 8e-3, 0.02, 6.0, 0.1, 0.0),
    }
    duration, size, rate, decay, magnitude, mixup, smoothing = numbers[procedure]
    use_imagenet(c)
    c.model.dtype = 'bfloat16'
    if procedure != 'A3':
        c.model.drop_path_rate = 0.05
    c.duration, c.batch = duration, 2048 if procedure == 'A3' else 2016
    c.data.image_size, c.data.eval_size, c.data.eval_resize = size, 224, 235
    c.data.train_crop, c.data.interpolation = 'random_resized', 'bicubic'
    c.data.repeats = 1 if procedure == 'A3' else 3
    c.augment.policy, c.augment.magnitude = 'randaugment_increasing', magnitude
    c.augment.magnitude_std = 0.5
    c.augment.mixup, c.augment.cutmix = mixup, 1.0
    c.loss.name, c.loss.args, c.loss.label_smoothing = 'bce', {'threshold': 0.2}, smoothing
    c.optim.name, c.optim.lr, c.optim.eps, c.optim.clip_norm = 'lamb', rate, 1e-6, 1.0
    c.optim.weight_decay, c.optim.decay_mask = decay, 'kernels'
    c.schedule.name, c.schedule.per = 'cosine', 'epoch'
    c.schedule.warmup, c.schedule.warmup_init = '5 epochs', 1e-4
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '5 epochs', '10 epochs'


def use_torchvision_v2(c: ConfigDict) -> None:
    """Torchvision's recipe of the weights IMAGENET1K_V2 (pytorch/vision issue 3995, its blog).

    The command of its ResNet-50, from memory: 600 epochs of 8 x 128 images, SGD 0.5 with a cosine
    by epoch after 5 of warm-up from a hundredth, L2 2e-5 of all but norms, label smoothing 0.1,
    mixup 0.2 or CutMix 1.0, TrivialAugment, erasing of 0.1 with zeros, four repeats, crops of 176
    pixels; evaluation on 224 of 232. Its average of weights is renewed every 32 steps, with a decay
    of 1 - 2e-5 x 1024 x 32 / 600: 0.999966 for each step.
    """
    use_imagenet(c)
    c.model.dtype = 'bfloat16'
    c.duration, c.batch = '600 epochs', 1024
    c.data.image_size, c.data.eval_size, c.data.eval_resize = 176, 224, 232
    c.data.train_crop, c.data.repeats = 'random_resized', 4
    c.augment.policy = 'trivialaugment'
    c.augment.erasing, c.augment.erasing_fill = 0.1, 'mean'
    c.augment.mixup, c.augment.cutmix = 0.2, 1.0
    c.loss.label_smoothing = 0.1
    c.optim.name, c.optim.lr, c.optim.momentum = 'sgd', 0.5, 0.9
    c.optim.weight_decay, c.optim.decay_mask = 2e-5, 'not_norms'
    c.schedule.name, c.schedule.per = 'cosine', 'epoch'
    c.schedule.warmup, c.schedule.warmup_init = '5 epochs', 0.005
    c.ema = 0.999966
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '5 epochs', '10 epochs'


def use_timm_mobile(c: ConfigDict, *, epochs: int, batch: int, lr: float, gamma: float) -> None:
    """Timm's recipe of small networks (its page of training scripts), with RandAugment.

    RMSProp in TensorFlow's form, the rate times `gamma` every 2.4 epochs, L2 1e-5 of the kernels,
    RandAugment (9, deviation 0.5), erasing of 0.2 with noise for each pixel, averages of 0.9999.
    The warm-up of 3 epochs from 1e-6 was timm's default (from memory). Operations are those that
    grow with the magnitude, timm's later choice; bicubic, timm's is bilinear or bicubic by chance.

    Args:
      c: the config.
      epochs: of the run.
      batch: over all devices.
      lr: peak learning rate.
      gamma: factor of the rate.
    """
    use_imagenet(c)
    c.model.dtype = 'bfloat16'
    c.duration, c.batch = f'{epochs} epochs', batch
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop, c.data.interpolation = 'random_resized', 'bicubic'
    c.augment.policy, c.augment.magnitude = 'randaugment_increasing', 9.0
    c.augment.magnitude_std, c.augment.erasing = 0.5, 0.2
    c.loss.label_smoothing = 0.1
    c.optim.name, c.optim.lr = 'rmsprop', lr
    c.optim.decay, c.optim.momentum, c.optim.eps = 0.9, 0.9, 1e-3
    c.optim.weight_decay, c.optim.decay_mask = 1e-5, 'kernels'
    c.schedule.name, c.schedule.gamma, c.schedule.every = 'exponential', gamma, '2.4 epochs'
    c.schedule.staircase, c.schedule.warmup, c.schedule.warmup_init = True, '3 epochs', 1e-6
    c.ema = 0.9999
    c.log_every, c.checkpoint.every, c.eval.every = '100 steps', '5 epochs', '10 epochs'

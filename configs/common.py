"""The data sets that a config can name; cls/config/defaults.py has the fields."""

from collections.abc import Callable

from ml_collections import ConfigDict

from cls.config import presets
from cls.config.defaults import base
from cls.errors import UserError, nearest

__all__ = ['arm', 'base', 'resolve']


def arm(argument: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """Reads a config's argument, 'ARM,option=value,...', 'folder=DIR,...' or 'finetune,folder=DIR'.

    Returns the arm, 'digits' if none is named, and the options: `variant`, `folder`.

    Args:
      argument: what stands after the colon.
      known: the arms that the config has.

    Raises:
      UserError: an arm or option that it has not, with those it has.
    """
    parts = [part for part in argument.split(',') if part]
    names = [part for part in parts if '=' not in part]
    options = dict(part.split('=', 1) for part in parts if '=' in part)
    chosen = names[0] if names else 'folder' if 'folder' in options else 'digits'
    for name, choices in (
        (chosen, known),
        *((option, ('variant', 'folder')) for option in options),
    ):
        if name not in choices or len(names) > 1:
            raise UserError(
                f'the config has no {argument!r}: write one of {", ".join(known)}, then '
                f'variant=NAME if wanted, with commas between.{nearest(name, choices)}'
            )
    if (chosen in ('folder', presets.NAME)) != bool(options.get('folder')):
        raise UserError(
            f'{argument!r}: the arms folder and finetune, and no others, take folder=DIR, as in '
            'finetune,folder=DIR'
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
) -> ConfigDict:
    """Returns the config that an argument asks for: the defaults, changed by one of the functions.

    Args:
      argument: what stands after the colon, see `arm`.
      digits: the default arm.
      cifar: the arms cifar10 and cifar100, told which.
      svhn: the arm svhn_cropped.
      mnist: the arm mnist.
      imagenet: the arm imagenet2012; with other images the arm folder=DIR, and of its model alone
        the arm finetune.

    Raises UserError for an arm that is not there.
    """
    known = ['digits']
    known += ['cifar10', 'cifar100'] if cifar else []
    known += ['svhn_cropped'] if svhn else []
    known += ['mnist'] if mnist else []
    known += ['imagenet2012', 'folder', presets.NAME] if imagenet else []
    chosen, options = arm(argument, tuple(known))
    c = base()
    if chosen == 'digits':
        digits(c)
    elif chosen in ('cifar10', 'cifar100'):
        cifar(c, chosen)
    elif chosen == 'svhn_cropped':
        svhn(c)
    elif chosen == 'mnist':
        mnist(c)
    else:
        imagenet(c)
    if chosen == presets.NAME:
        c = fine_tuning_of(c)
    if 'folder' in options:
        use_folder(c, options['folder'])
    c.model.name = options.get('variant', c.model.name)
    return c


def use_digits(c: ConfigDict) -> None:
    """The embedded 8x8 handwritten digits: shifted by up to a pixel, never mirrored."""
    c.data.name = 'digits'
    c.data.image_size = 8
    c.data.train_crop, c.data.pad = 'pad', 1
    c.data.mean, c.data.std = (78.0,), (96.0,)  # of the training images, rounded


def use_cifar(c: ConfigDict, name: str) -> None:
    """CIFAR-10 or -100: padded by 4, cropped, mirrored (Lee et al. 2015, as He et al. 2016).

    Normalised by the mean and deviation of the set itself, as fb.resnet.torch has them.
    """
    c.data.name = f'tfds:{name}'
    c.data.image_size = 32
    c.data.train_crop, c.data.pad, c.data.flip = 'pad', 4, True
    c.data.mean, c.data.std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    if name == 'cifar100':
        c.data.mean, c.data.std = (129.3, 124.1, 112.4), (68.2, 65.4, 70.4)


def use_svhn(c: ConfigDict) -> None:
    """SVHN's cropped digits, trained on with the 531,131 easier ones; not augmented."""
    c.data.name = 'tfds:svhn_cropped'
    c.data.train_split = 'train+extra'
    c.data.image_size = 32
    c.data.mean, c.data.std = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)


def use_mnist(c: ConfigDict) -> None:
    """MNIST: grey, 28x28; normalised by the mean and deviation of the training set's pixels."""
    c.data.name = 'tfds:mnist'
    c.data.image_size = 28
    c.data.mean, c.data.std = (33.3,), (78.6,)


def use_imagenet(c: ConfigDict) -> None:
    """ImageNet 2012; its validation set is what is evaluated on."""
    c.data.name = 'tfds:imagenet2012'
    c.data.flip = True
    c.data.mean, c.data.std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    c.data.workers = 8


def use_folder(c: ConfigDict, folder: str) -> None:
    """Images in DIR/train/<class>/ and DIR/val/<class>/ in place of ImageNet's."""
    c.data.name = f'folder:{folder}'
    c.data.workers = 0
    if 'num_classes' in c.model:
        del c.model.num_classes  # as many as the folder has


def fine_tuning_of(recipe: ConfigDict) -> ConfigDict:
    """Returns the recipe to fine-tune a recipe's model with, see cls.config.presets.

    Of the recipe the model and the weight of its auxiliary heads stay.
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
    Torch's bicubic resizing does not blur what it shrinks: tf_bicubic is the nearest to it (Torch
    has corners on corners). It draws the ratio of the crop's sides evenly, not its logarithm.
    """
    c.data.image_size, c.data.eval_resize = 224, 256
    c.data.train_crop, c.data.interpolation = 'random_resized', 'tf_bicubic'
    c.augment.brightness = c.augment.contrast = c.augment.saturation = 0.4
    c.augment.lighting = 0.1


def use_inception_images(c: ConfigDict, size: int) -> None:
    """The images of slim's inception_preprocessing.py: crops of 5 % or more, distorted colours.

    Pixels from -1 to 1; in evaluation the central 87.5 % (of each side, then made square: here the
    shape stays). Colours are distorted as Inception's own code has it; slim's default, its fast
    mode, leaves out hue and contrast: inception_fast. Resized bilinearly, without blurring what
    shrinks, on TensorFlow 2's grid, where slim has TensorFlow 1's.
    """
    c.data.image_size, c.data.eval_resize = size, round(size / 0.875)
    c.data.train_crop, c.data.area = 'random_resized', (0.05, 1.0)
    c.data.interpolation = 'tf_bilinear'
    c.data.mean, c.data.std = (127.5,) * 3, (127.5,) * 3
    c.augment.distortion = 'inception'

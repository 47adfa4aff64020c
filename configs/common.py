"""Defaults that every config starts from, and the data sets that a config can be pointed at.

A field's comment is its documentation. Durations are strings of a number and a unit:
'200 epochs', '64000 steps', '5e6 examples', '10 percent' (of the run's whole length).
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from cls.errors import UserError, nearest


def base() -> ConfigDict:
    """Returns the complete set of fields; a system's config changes what is its own."""
    c = ConfigDict()
    c.seed = 0  # of initialisation, data order, augmentation and dropout
    c.duration = '30 epochs'  # of the whole run
    c.batch = 128  # examples in a step, over all devices and hosts
    c.accumulate = 1  # microbatches that a step's batch is computed in, one after the other

    c.model = ConfigDict()
    c.model.name = ''  # a registered variant; every other key is a field of its module
    c.model.dtype = 'float32'  # of the computation; parameters stay float32

    c.data = ConfigDict()
    c.data.name = 'digits'  # digits | tfds:NAME | folder:DIR | synthetic; see cls/data/sources.py
    c.data.dir = ''  # where prepared TFDS data sets lie; '': TFDS's own default (digits: a cache)
    c.data.train_split = 'train'  # of a TFDS data set
    c.data.eval_split = 'test'  # of a TFDS data set; folders have test/ or val/
    c.data.num_classes = 0  # 0: as the data set says; synthetic: as many as wanted
    c.data.eval_fraction = 0.0  # folder without test/ or val/: part of each class to evaluate on
    c.data.exif = True  # folder: images are turned as their EXIF data say (torchvision: not)
    c.data.balanced = False  # training draws the classes equally often, whatever they have
    c.data.repeats = 1  # repeated augmentation: crops of one image in a batch; divides it
    c.data.image_size = 32  # height and width that the net sees
    c.data.interpolation = 'bilinear'  # bilinear | bicubic (Pillow's) | tf_bilinear | tf_bicubic
    # none | pad | scale_jitter | random_resized (torchvision's) | distorted_box (TensorFlow's)
    c.data.train_crop = 'none'
    c.data.pad = 4  # pad: pixels added at each side before the random crop
    c.data.pad_mode = 'zero'  # pad: zero | mean (of data.mean, to a whole number) | mirror
    c.data.scale = (256, 480)  # scale_jitter: range of the shorter side before the random crop
    c.data.area = (0.08, 1.0)  # the last two: range of the crop's part of the image's area
    c.data.aspect = (3 / 4, 4 / 3)  # the last two: range of the crop's width over height
    c.data.flip = False  # horizontal flips while training (inside the step)
    c.data.eval_size = 0  # evaluation: height and width that the net sees; 0: image_size
    c.data.eval_resize = 0  # evaluation: shorter side before the centre crop; 0: eval_size
    c.data.mean = (0.0,)  # per channel, of pixels in 0..255, subtracted
    c.data.std = (255.0,)  # per channel, divided by
    c.data.contrast = ''  # '' | global: each image to zero mean and unit variance, before mean, std
    c.data.workers = 0  # processes that decode images; 0: threads of this process

    # Inside the step, on the training batch, in this order; what is 0 or '' does nothing.
    c.augment = ConfigDict()
    c.augment.policy = ''  # autoaugment_{imagenet,cifar10,svhn,v0} | randaugment[_increasing]
    c.augment.layers = 2  # randaugment: operations on an image
    c.augment.magnitude = 9.0  # randaugment: of 10 (the paper: up to 30)
    c.augment.magnitude_std = 0.0  # randaugment: standard deviation of the magnitude (timm: mstd)
    c.augment.rotation = 0.0  # degrees to either side; bilinear, black outside
    c.augment.distortion = ''  # inception | inception_fast: brightness, saturation, hue, contrast
    c.augment.brightness = 0.0  # colour jitter: factors from 1 - this to 1 + this
    c.augment.contrast = 0.0  # likewise
    c.augment.saturation = 0.0  # likewise
    c.augment.hue = 0.0  # shift of up to this part of the circle to either side
    c.augment.hsl = (0.0, 0.0, 0.0)  # shifts of hue (of 180), saturation, lightness (MXNet's)
    c.augment.lighting = 0.0  # standard deviation of PCA noise (AlexNet: 0.1)
    c.augment.noise = 0.0  # added to each value, uniform, up to this to either side (SENet: 20)
    c.augment.cutout = 0  # side in pixels of the square that is blanked
    c.augment.erasing = 0.0  # probability of random erasing
    c.augment.erasing_fill = 'noise'  # noise | mean
    c.augment.mixup = 0.0  # alpha of mixup
    c.augment.cutmix = 0.0  # alpha of CutMix; with mixup, either of them by even chances

    c.optim = ConfigDict()
    c.optim.name = 'sgd'  # sgd | rmsprop (TensorFlow's form) | adam | adamw | lamb
    c.optim.lr = 0.1  # peak learning rate for the whole batch
    c.optim.momentum = 0.9  # sgd, rmsprop
    c.optim.nesterov = False  # sgd
    c.optim.decay = 0.9  # rmsprop: of the mean square
    c.optim.b1 = 0.9  # adam, adamw, lamb
    c.optim.b2 = 0.999  # adam, adamw, lamb
    c.optim.eps = 1e-8  # rmsprop (inside the root), adam, adamw, lamb
    c.optim.weight_decay = (
        0.0  # L2 in the gradient for sgd, rmsprop, adam; decoupled for adamw, lamb
    )
    c.optim.decay_mask = 'kernels'  # kernels | all | not_norms | not_depthwise
    c.optim.bias_lr = 1.0  # times the rate, for biases that are no norm's (Caffe's recipes: 2)
    c.optim.body_lr = 1.0  # times the rate, for all but the classifiers
    c.optim.freeze = ''  # regular expression; parameters with a match in their path stay
    c.optim.clip_norm = 0.0  # global norm of the gradient; 0: no clipping
    c.optim.clip_after_decay = (
        False  # the L2 term counts into the clipped norm (TF: L2 is in the loss)
    )

    c.schedule = ConfigDict()
    # constant | step | cosine | cosine_restarts | exponential | polynomial
    c.schedule.name = 'constant'
    c.schedule.warmup = '0 steps'  # linear, from 0 (or warmup_init) to lr
    c.schedule.warmup_init = 0.0  # learning rate at step 0 of the warm-up
    c.schedule.at = ()  # step, cosine_restarts: durations, counted from step 0
    c.schedule.factor = 0.1  # step, restarts, exponential: what the rate is multiplied by
    c.schedule.every = '1 epochs'  # exponential: for each of these
    c.schedule.staircase = False  # exponential: in jumps
    c.schedule.power = 1.0  # polynomial
    c.schedule.end = 0.0  # cosines, polynomial: the last rate as a part of lr

    # ((moment, pixels), ...): from then on the training images have this size; '0 steps' is first,
    # and what data.pad and data.scale give in pixels of image_size grows with them
    c.progressive = ()
    c.init = ''  # weights to start from: FILE | run folder | hf:OWNER/NAME
    c.freeze_bn = ''  # a moment; from it on batch norms use, and keep, their running statistics

    c.loss = ConfigDict()
    c.loss.label_smoothing = 0.0
    c.loss.aux_weight = 0.0  # of the mean loss of the auxiliary heads

    c.ema = 0.0  # decay of the average of parameters and BN statistics; 0: none

    c.eval = ConfigDict()
    c.eval.batch = 0  # 0: as in training
    c.eval.every = ''  # a duration; '': only at the end
    c.eval.protocol = 'single'  # what of an image is seen, --job evaluate: see cls/protocols.py
    c.eval.scales = ()  # dense: shorter sides of the images; (): data.eval_resize
    c.eval.multiple = 32  # dense: pixels by which shapes may differ; the longer side is cut to fit
    c.eval.predictions = ''  # --job evaluate: NAME.csv in the run folder for what each image got
    c.eval.precise_bn = 0  # training examples that BN statistics are taken anew from; 0: none

    c.checkpoint = ConfigDict()
    c.checkpoint.every = '10 percent'
    c.checkpoint.keep = 2

    c.mesh = ConfigDict()
    c.mesh.fsdp = 1  # devices that share one copy of the state; the rest is data parallel
    # '' | stage | block: what gradients are computed from is kept for the ends of these only, and
    # all between computed anew: less memory, about a third more operations; see cls/remat.py
    c.remat = ''

    c.log_every = '20 steps'
    c.profile = ''  # START:STOP, steps written as a jax.profiler trace
    return c


def arm(argument: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """Reads a config's argument, 'ARM,option=value,...' or 'folder=DIR,...'.

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
    if (chosen == 'folder') != bool(options.get('folder')):
        raise UserError(f'{argument!r}: the arm folder, and no other, takes folder=DIR')
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
      imagenet: the arm imagenet2012, and with other images the arm folder=DIR.

    Raises UserError for an arm that is not there.
    """
    known = ['digits']
    known += ['cifar10', 'cifar100'] if cifar else []
    known += ['svhn_cropped'] if svhn else []
    known += ['mnist'] if mnist else []
    known += ['imagenet2012', 'folder'] if imagenet else []
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
    if chosen == 'folder':
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
    c.data.eval_split = 'validation'
    c.data.flip = True
    c.data.mean, c.data.std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    c.data.workers = 8


def use_folder(c: ConfigDict, folder: str) -> None:
    """Images in DIR/train/<class>/ and DIR/test/<class>/ (or val/) in place of ImageNet's."""
    c.data.name = f'folder:{folder}'
    c.data.workers = 0
    if 'num_classes' in c.model:
        del c.model.num_classes  # as many as the folder has


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

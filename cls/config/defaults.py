"""The fields of a config: defaults, allowed values, documentation, and the effect of a change.

`FIELDS` is the table of a training config, `SEARCH` the table of a search around it. Durations are
strings of a number and a unit: '200 epochs', '64000 steps', '5e6 examples', '10 percent' (of the
length of the run). `duration` may also be a time, '30 minutes'.
"""

import re
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from cls.config.field import DURATION, FREE, LENGTH, LIMIT, Field
from cls.errors import UserError, joined, nearest

_MISSING = object()
_PIXELS = 2**14  # height or width of an image that a network sees

FIELDS: dict[str, Field] = {
    'seed': Field(0, '[0, 2**32)', 'of initialization, data order, augmentation and dropout'),
    'duration': Field(
        '30 epochs', LIMIT, 'of the whole run; in minutes: of time in its steps', LENGTH
    ),
    'batch': Field(128, '[1, 2**24]', 'examples in a step, over all devices and hosts'),
    'preset': Field(
        '',
        "'' | finetune",
        'set by the arm finetune, a recipe by the number of images: cls/config/presets.py',
    ),
    'accumulate': Field(1, '[1, 2**24]', "microbatches of a step's batch, computed in turn"),
    # ---- the network
    'model.name': Field('', '', 'a registered variant; every other key is a field of its module'),
    'model.dtype': Field(
        'float32',
        'float32 | bfloat16 | float16',
        'of the computation; parameters stay float32',
    ),
    # ---- images and labels
    'data.name': Field(
        'digits',
        '',
        'digits | tfds:NAME | folder:DIR | csv:FILE | parquet:FILE | datasets:DIR | '
        'wds:PATTERN | synthetic; see configs/README.md#data',
    ),
    'data.dir': Field(
        '', '', "folder of prepared TFDS data sets; '': TFDS's own default (digits: a cache)"
    ),
    'data.train_split': Field('train', '', 'of a TFDS data set or a table'),
    'data.eval_split': Field(
        '',
        '',
        "split (test, train[90%:]), folder or file to evaluate on; '': the validation split, else "
        'test; with eval.validation the test split',
    ),
    'data.channels': Field(
        0,
        '[0, 64]',
        '0: those of the data set, 3 for files; 1 (gray) and 3 are converted, others must be so',
    ),
    'data.num_classes': Field(0, '[0, 2**24]', '0: those of the data set; synthetic: any number'),
    'data.allow_changed': Field(
        False, '', 'continues a run whose data have changed since it was begun', FREE
    ),
    'data.class_order': Field(
        'text',
        'text | natural',
        "folder: of its classes; torchvision's (1, 10, 2) or timm's (1, 2, 10)",
    ),
    'data.classes': Field(
        '', '', "file of the classes' names by label, one a line or JSON; '': as the data have them"
    ),
    'data.image_column': Field(
        '',
        '',
        "tables, wds: column of the images; '': image, path, file, filename, file_name",
    ),
    'data.label_column': Field(
        '', '', "tables, wds: column of the labels; '': label, labels, class, target"
    ),
    'data.split_column': Field(
        '', '', "tables: column of the splits; '': split, if there is such a column"
    ),
    'data.multi_label': Field(
        False, '', 'tables: an image may have several labels, cat|dog in a cell, or none'
    ),
    'data.exif': Field(
        True, '', 'files: images are turned as their EXIF data say (torchvision: not)'
    ),
    'data.max_pixels': Field(
        89_478_485,
        '[1, 2**40]',
        "of the largest image that is decoded (Pillow's limit); others are refused",
        FREE,
    ),
    'data.broken_images': Field(
        'refuse',
        'refuse | take',
        'take: damaged JPEGs are decoded as far as they go, and counted in the log',
        FREE,
    ),
    'data.balanced': Field(
        False, '', 'training draws the classes equally often, whatever they have'
    ),
    'data.repeats': Field(
        1, '[1, 2**24]', 'repeated augmentation: crops of one image in a batch; divides it'
    ),
    'data.image_size': Field(32, f'[1, {_PIXELS}]', 'height and width that the network sees'),
    'data.interpolation': Field(
        'bilinear', '', "bilinear | bicubic | nearest (Pillow's) | tf_bilinear | tf_bicubic"
    ),
    'data.train_crop': Field(
        'none',
        '',
        "none | pad | scale_jitter | random_resized (torchvision's) | distorted_box (TensorFlow's)",
    ),
    'data.pad': Field(4, '[0, 2**14]', 'pad: pixels added at each side before the random crop'),
    'data.pad_mode': Field('zero', '', 'pad: zero | mean (of data.mean, a whole number) | mirror'),
    'data.scale': Field(
        (256, 480),
        f'[1, {_PIXELS}]',
        'scale_jitter: range of the shorter side before the crop',
        length=2,
    ),
    'data.area': Field(
        (0.08, 1.0),
        '(0, 1]',
        "the last two: range of the crop's part of the image's area",
        length=2,
    ),
    'data.aspect': Field(
        (3 / 4, 4 / 3), '(0, 100]', "the last two: range of the crop's width over height", length=2
    ),
    'data.flip': Field(False, '', 'horizontal flips while training (inside the step)'),
    'data.eval_size': Field(
        0, f'[0, {_PIXELS}]', 'evaluation: height and width that the network sees; 0: image_size'
    ),
    'data.eval_resize': Field(
        0, f'[0, {_PIXELS}]', 'evaluation: shorter side before the center crop; 0: eval_size'
    ),
    'data.eval_crop': Field(
        'center', '', 'evaluation: center | squash (both sides to eval_resize, in any ratio)'
    ),
    'data.mean': Field((0.0,), '[-1e6, 1e6]', 'per channel, of pixels in 0..255, subtracted'),
    'data.std': Field((255.0,), '[1e-6, 1e6]', 'per channel, divided by'),
    'data.contrast': Field(
        '', '', "'' | global: each image to zero mean and unit variance, before mean, std"
    ),
    'data.workers': Field(
        0, '[0, 1024]', 'processes that decode images; 0: threads of this process', FREE
    ),
    # ---- inside the step, on the training batch, in this order; fields that are 0 or '' do nothing
    'augment.policy': Field(
        '',
        '',
        'autoaugment_{imagenet,cifar10,svhn,v0} | randaugment[_increasing] | trivialaugment (wide)',
    ),
    'augment.layers': Field(2, '[1, 16]', 'randaugment: operations on an image'),
    'augment.magnitude': Field(9.0, '[0, 30]', 'randaugment: of 10 (the paper: up to 30)'),
    'augment.magnitude_std': Field(
        0.0, '[0, 10]', 'randaugment: standard deviation of the magnitude (timm: mstd)'
    ),
    'augment.rotation': Field(0.0, '[0, 180]', 'degrees to either side; bilinear, black outside'),
    'augment.distortion': Field(
        '', '', 'inception | inception_fast: brightness, saturation, hue, contrast'
    ),
    'augment.brightness': Field(0.0, '[0, inf)', 'color jitter: factors from 1 - this to 1 + this'),
    'augment.contrast': Field(0.0, '[0, inf)', 'likewise'),
    'augment.saturation': Field(0.0, '[0, inf)', 'likewise'),
    'augment.hue': Field(0.0, '[0, 0.5]', 'shift of up to this part of the circle to either side'),
    'augment.hsl': Field(
        (0.0, 0.0, 0.0),
        '[0, 255]',
        "shifts of hue (of 180), saturation, lightness (MXNet's)",
        length=3,
    ),
    'augment.lighting': Field(0.0, '[0, inf)', 'standard deviation of PCA noise (AlexNet: 0.1)'),
    'augment.noise': Field(
        0.0, '[0, 255]', 'added to each value, uniform, up to this to either side (SENet: 20)'
    ),
    'augment.cutout': Field(0, '[0, 2**14]', 'side in pixels of the square that is blanked'),
    'augment.erasing': Field(0.0, '[0, 1]', 'probability of random erasing'),
    'augment.erasing_fill': Field('noise', '', 'noise | mean'),
    'augment.mixup': Field(0.0, '[0, inf)', 'alpha of mixup'),
    'augment.cutmix': Field(
        0.0, '[0, inf)', 'alpha of CutMix; with mixup, either of them by even chances'
    ),
    # ---- the update
    'optim.name': Field(
        'sgd',
        '',
        "sgd | rmsprop (TensorFlow's form) | adam | adamw | lamb, or any optimizer of Optax: lion, "
        'muon, lars, adan, ...',
    ),
    'optim.args': Field({}, '', 'optim.args.NAME: arguments of an optimizer of Optax'),
    'optim.lr': Field(0.1, '[0, inf)', 'peak learning rate for the whole batch'),
    'optim.momentum': Field(0.9, '[0, 1)', 'sgd, rmsprop'),
    'optim.nesterov': Field(False, '', 'sgd'),
    'optim.decay': Field(0.9, '[0, 1)', 'rmsprop: of the mean square'),
    'optim.b1': Field(0.9, '[0, 1)', 'adam, adamw, lamb'),
    'optim.b2': Field(0.999, '[0, 1)', 'adam, adamw, lamb'),
    'optim.eps': Field(1e-8, '(0, inf)', 'rmsprop (inside the root), adam, adamw, lamb'),
    'optim.weight_decay': Field(
        0.0,
        '[0, inf)',
        'L2 in the gradient for sgd, rmsprop, adam; decoupled for adamw, lamb; for an optimizer of '
        'Optax its own, or else L2',
    ),
    'optim.decay_mask': Field('kernels', '', 'kernels | all | not_norms | not_depthwise'),
    'optim.bias_lr_mult': Field(
        1.0, '(0, inf)', "times the rate, for biases outside of norms (Caffe's recipes: 2)"
    ),
    'optim.body_lr_mult': Field(
        1.0,
        '(0, inf)',
        'factor of the rate of all but the classifiers; optim.freeze keeps parameters as they are',
    ),
    'optim.layer_decay': Field(
        1.0, '(0, 1]', 'factor of the rate for each layer, or block, between it and the classifier'
    ),
    'optim.freeze': Field('', '', 'regular expression; parameters with a match in their path stay'),
    'optim.clip_norm': Field(0.0, '[0, inf)', 'global norm of the gradient; 0: no clipping'),
    'optim.clip_after_decay': Field(
        False, '', 'the L2 term counts into the clipped norm (TF: L2 is in the loss)'
    ),
    'optim.agc': Field(
        0.0, '[0, inf)', "adaptive clipping of each filter's gradient (NFNets: 0.01); 0: none"
    ),
    'optim.lookahead': Field(
        0, '[0, 2**24]', 'steps of the fast weights for one of the slow weights (5); 0: none'
    ),
    'optim.lookahead_rate': Field(0.5, '(0, 1]', 'lookahead: of the slow weights'),
    'optim.sam': Field(
        0.0, '[0, inf)', 'sharpness-aware: radius of the step up (0.05), at twice the work; 0: none'
    ),
    # ---- the learning rate
    'schedule.name': Field(
        'constant',
        '',
        'constant | step | cosine | cosine_restarts | exponential | polynomial | plateau',
    ),
    'schedule.warmup': Field('0 steps', DURATION, 'linear, from 0 (or warmup_init) to lr'),
    'schedule.warmup_init': Field(0.0, '[0, inf)', 'learning rate at step 0 of the warm-up'),
    'schedule.milestones': Field(
        (), DURATION, 'step, cosine_restarts: durations, counted from step 0'
    ),
    'schedule.gamma': Field(
        0.1, '(0, inf)', 'step, restarts, exponential, plateau: factor of the rate'
    ),
    'schedule.every': Field('1 epochs', DURATION, 'exponential: for each of these'),
    'schedule.staircase': Field(False, '', 'exponential: in jumps'),
    'schedule.power': Field(1.0, '(0, inf)', 'polynomial'),
    'schedule.metric': Field(
        'loss',
        'loss | top1',
        'plateau: of the evaluations of eval.every, which then change training',
    ),
    'schedule.patience': Field(
        10, '[0, 2**24]', 'plateau: evaluations without an improvement that do not change the rate'
    ),
    'schedule.threshold': Field(1e-4, '[0, 1)', 'plateau: relative improvement that counts'),
    'schedule.per': Field(
        'step', 'step | epoch', 'epoch: the rate of its first step holds for a whole epoch'
    ),
    'schedule.end': Field(
        0.0, '[0, 1]', 'cosines, polynomial, plateau: the last rate as a part of lr'
    ),
    # ---- the training
    'progressive': Field(
        (),
        '',
        "((moment, pixels), ...): from then on the training images have this size; '0 steps' is "
        'first; data.pad and data.scale, in pixels of image_size, grow with them',
    ),
    'init': Field('', '', 'weights to start from: FILE | run folder | hf:OWNER/NAME'),
    'freeze_bn': Field(
        '', DURATION, 'a moment; from it on batch norms use, and keep, their running statistics'
    ),
    'loss.name': Field(
        'softmax', '', 'softmax | bce (binary cross-entropy of each class) | focal | binary_focal'
    ),
    'loss.args': Field({}, '', 'loss.args.NAME: bce: threshold, sum_classes (timm); focals: gamma'),
    'loss.class_weights': Field(
        (), '', 'balanced (by the numbers of training images), or a number for each class; (): none'
    ),
    'loss.label_smoothing': Field(0.0, '[0, 1)', 'part of the target spread over all classes'),
    'loss.aux_weight': Field(0.0, '[0, inf)', 'of the mean loss of the auxiliary heads'),
    'distill.teacher': Field(
        '', '', 'a model to learn from: all that cls.load takes (run folder, file, hf:, name)'
    ),
    'distill.temperature': Field(4.0, '(0, inf)', 'of the softened probabilities'),
    'distill.weight': Field(
        0.5, '[0, 1]', "of the teacher's part of the loss; that of the labels has the rest"
    ),
    'ema': Field(0.0, '[0, 1)', 'decay of the average of parameters and BN statistics; 0: none'),
    'ema_warmup': Field(
        'tensorflow',
        'tensorflow | timm | none',
        'ema: decay in update t, at most (1 + t) / (10 + t), or 1 - (1 + t)^(-2/3)',
    ),
    'ema_every': Field(1, '[1, 2**24]', 'ema: steps between two updates of the average'),
    # ---- evaluation
    'eval.batch': Field(0, '[0, 2**24]', '0: as in training', FREE),
    'eval.every': Field('', DURATION, "a duration; '': only at the end", FREE),
    'eval.validation': Field(
        '',
        '',
        'a fraction of the training images (0.1, of each class, by the seed), or a split or '
        'folder: evaluated during the training; the test split then only at its end',
    ),
    'eval.patience': Field(
        0,
        '[0, 2**24]',
        'evaluations in succession without a better checkpoint.best that end the run; 0: none do',
        LENGTH,
    ),
    'eval.protocol': Field(
        'single',
        '',
        'cls evaluate: the views of an image, see cls/evaluation/protocols.py',
        FREE,
    ),
    'eval.scales': Field((), '', 'dense: shorter sides of the images; (): data.eval_resize', FREE),
    'eval.size_divisor': Field(
        32,
        f'[1, {_PIXELS}]',
        'dense: the longer side is cut to exceed the shorter one by a multiple of this',
        FREE,
    ),
    'eval.predictions': Field(
        '', '', 'cls evaluate: NAME.csv in the run folder for the predictions', FREE
    ),
    'eval.precise_bn': Field(
        0,
        '[0, 2**31)',
        'training examples that BN statistics are recomputed from; 0: none',
        FREE,
    ),
    # ---- sizes that a file or a config may state
    'limits.layers': Field(
        1000, '[1, 2**20]', "layers, or blocks, of a genotype or of a module's fields", FREE
    ),
    'limits.inflation': Field(
        50.0, '[1, inf)', 'weights: bytes of a tensor or an archive for each byte of the file', FREE
    ),
    # ---- the run
    'checkpoint.every': Field('10 percent', DURATION, 'a duration', FREE),
    'checkpoint.keep': Field(
        2, '[1, 2**20]', 'the number of newest checkpoints that are kept', FREE
    ),
    'checkpoint.best': Field(
        '',
        '',
        "the checkpoint best by this metric, as validation/top1, is kept too and used; '': none",
        FREE,
    ),
    'mesh.fsdp': Field(
        1,
        '[1, 2**20]',
        'devices that share one copy of the state; the rest is data parallel',
        FREE,
    ),
    'remat': Field(
        '',
        '',
        "'' | stage | block: gradients keep only the outputs of these, and recompute the rest: "
        'less memory, about a third more operations; see cls/steps/remat.py',
        FREE,
    ),
    'log_every': Field(
        '20 steps', DURATION, 'a duration; training metrics are means over these steps', FREE
    ),
    'log.to': Field(
        ('tensorboard',),
        '',
        'loggers besides metrics.jsonl: tensorboard, csv, wandb, mlflow, trackio',
        FREE,
    ),
    'log.project': Field(
        'cls', '', 'wandb, trackio: the project of the run; mlflow: its experiment', FREE
    ),
    'log.images': Field(
        16, '[0, 1024]', 'augmented training images that are logged once, at the start', FREE
    ),
    'log.histograms_every': Field(
        '', DURATION, "between histograms of parameters and gradients; '': none", FREE
    ),
    'profile': Field('', '', 'START:STOP, steps written as a jax.profiler trace', FREE),
}

# The groups space, searcher, objective, evaluator and supernet also have the fields of the class
# that they name, see cls/search/registry.py.
SEARCH: dict[str, Field] = {
    'seed': Field(
        0, '[0, 2**32)', 'of the searcher, and with its number of the training of each trial'
    ),
    'search.evaluations': Field(100, '[1, 2**24]', 'trials in all'),
    'search.max_concurrent': Field(1, '[1, 2**16]', 'trials that are evaluated at the same time'),
    'search.synchronous': Field(
        True, '', 'observed in the order of the proposals: results do not depend on timing'
    ),
    'search.engine': Field(
        'local', 'local | processes | ray', 'this process, others of this machine, Ray', FREE
    ),
    'search.workers': Field(0, '[0, 2**16]', 'processes; 0: as many as max_concurrent', FREE),
    'search.gpus': Field(
        0.0,
        '[0, 1024]',
        'ray: of each evaluation; on a part of one as many run at a time as fit',
        FREE,
    ),
    'search.system': Field('', '', 'the config that trains what was found, a file'),
    'search.table': Field('', '', 'a CSV file with a row for each architecture'),
    'search.columns.key': Field('', '', "the column with the space's genotypes"),
    'search.columns.signals': Field(
        ('',), '', 'columns with what the searcher sees, drawn for each trial'
    ),
    'search.columns.truth': Field('', '', 'what the report shows, never the searcher'),
}


# Earlier names of fields and values: refused with a hint to the new name, but read in run folders.
RENAMED = {
    'optim.body_lr': 'optim.body_lr_mult',
    'optim.bias_lr': 'optim.bias_lr_mult',
    'schedule.at': 'schedule.milestones',
    'schedule.factor': 'schedule.gamma',
    'eval.multiple': 'eval.size_divisor',
    'search.at_once': 'search.max_concurrent',
    'data.eval_fraction': 'eval.validation',
}
# The values of a renamed field, where its meaning has changed.
CONVERTED = {'data.eval_fraction': lambda fraction: f'{fraction!r} by name' if fraction else ''}
RENAMED_VALUES = {('search.engine', 'here'): 'local'}


def base(fields: Mapping[str, Field] = FIELDS) -> ConfigDict:
    """Returns a config with all defaults, the base of every system's config."""
    return _filled(ConfigDict(), fields)


def _filled(config: ConfigDict, fields: Mapping[str, Field]) -> ConfigDict:
    """Sets the missing fields of a config to their defaults; returns the config."""
    for name, field in fields.items():
        *parents, key = name.split('.')
        node = config
        for parent in parents:
            if isinstance(node, ConfigDict) and parent not in node:
                node[parent] = ConfigDict()
            node = node[parent] if isinstance(node, ConfigDict) else None
        if isinstance(node, ConfigDict) and key not in node:
            node[key] = field.default
    return config


def parts(config: ConfigDict) -> Iterator[tuple[str, ConfigDict, Mapping[str, Field]]]:
    """Yields (prefix, config, fields) for each training or search that a config describes.

    An ensemble has one for each member; a search has its own, and that of its trials.
    """
    if 'members' in config:
        for name, member in config.members.items():
            yield f'members.{name}.', member, FIELDS
    elif 'search' in config and 'optim' not in config:
        yield '', config, SEARCH
        if 'proxy' in config:
            yield 'proxy.', config.proxy, FIELDS
    else:
        yield '', config, FIELDS


def field(name: str) -> Field | None:
    """Returns the field with a dotted name, in any part of a config; None if it is unknown."""
    name = re.sub(r'^(members\.[^.]+|proxy)\.', '', name)
    return FIELDS.get(name) or SEARCH.get(name)


def complete(config: ConfigDict) -> ConfigDict:
    """Sets the missing fields of an unlocked config of an earlier version; returns the config."""
    for _, part, fields in parts(config):
        _filled(part, fields)
    return config


def renamed(name: str) -> str:
    """Returns ' It is now called NAME.' for an earlier dotted name, '' for any other name."""
    prefix = ''.join(re.findall(r'^(?:members\.[^.]+\.|proxy\.)', name))
    new = RENAMED.get(name.removeprefix(prefix))
    return f' It is now called {prefix}{new}.' if new else ''


def with_new_names(config: ConfigDict) -> ConfigDict:
    """Renames fields of an unlocked config of an earlier version; returns the config."""
    for _, part, _ in parts(config):
        for old, new in RENAMED.items():
            group, _, key = old.rpartition('.')
            node = part.get(group)
            if isinstance(node, ConfigDict) and key in node:
                value = CONVERTED.get(old, lambda value: value)(node[key])
                del node[key]
                group, _, key = new.rpartition('.')
                if not isinstance(part.get(group), ConfigDict):
                    part[group] = ConfigDict()
                part[group][key] = value
        for (name, old), new in RENAMED_VALUES.items():
            group, _, key = name.rpartition('.')
            node = part.get(group)
            if isinstance(node, ConfigDict) and node.get(key) == old:
                node[key] = new
    return config


class MistakenConfig(UserError):
    """A config with invalid values.

    Attributes:
      config: the config.
      mistakes: dotted name -> a sentence.
    """

    def __init__(self, config: ConfigDict, mistakes: Mapping[str, str]) -> None:
        """Takes the config and its mistakes."""
        super().__init__(joined(mistakes.values()))
        self.config = config
        self.mistakes = mistakes


def mistakes(config: ConfigDict) -> dict[str, str]:
    """Returns the invalid values of single fields: dotted name -> a sentence."""
    messages = {}
    for prefix, part, fields in parts(config):
        for name in _unknown(part, fields):
            hint = renamed(name) or nearest(name, fields) or ' `cls print` shows all fields.'
            messages[prefix + name] = f'config.{prefix}{name} is not a field.{hint}'
        for name, field in fields.items():
            value = part
            for key in name.split('.'):
                value = value.get(key, _MISSING) if isinstance(value, ConfigDict) else _MISSING
            if value is _MISSING:
                messages[prefix + name] = f'config.{prefix}{name} is missing'
            elif wanted := field.problem(value):
                hint = nearest(value, field.names) if isinstance(value, str) else ''
                if isinstance(value, str) and (name, value) in RENAMED_VALUES:
                    hint = f' It is now called {RENAMED_VALUES[name, value]}.'
                doc = f' ({field.doc})' if field.doc and field.interval else ''
                sentence = f'config.{prefix}{name} is {value!r}: {wanted}{doc}.{hint}'
                messages[prefix + name] = sentence
    return messages


def is_open(name: str) -> bool:
    """Whether a group of a config, by its dotted name, takes fields of any name."""
    last = name.rpartition('.')[2]
    return last == 'model' or name.endswith(('optim.args', 'loss.args'))


def _unknown(config: ConfigDict, fields: Mapping[str, Field], prefix: str = '') -> Iterator[str]:
    """Yields unknown names, except in modules and searches, which are checked elsewhere."""
    groups = {name.rpartition('.')[0] for name in fields}
    groups |= {parent for group in groups for parent in _parents(group)}
    for key, value in config.items():
        name = f'{prefix}{key}'
        if name in ('model', 'search', 'proxy') or name in fields:
            if isinstance(value, ConfigDict):
                yield from (f'{name}.{key}' for key in value if f'{name}.{key}' in RENAMED)
            continue
        if name in groups and isinstance(value, ConfigDict):
            yield from _unknown(value, fields, f'{name}.')
        else:
            yield name


def _parents(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition('.')[0]


def check(config: ConfigDict, overrides: Mapping[str, str] | None = None) -> None:
    """Raises MistakenConfig, with all mistakes, for fields with values that they do not take.

    Args:
      config: the config.
      overrides: mistakes of overrides, which the config does not show: dotted name -> a sentence.
    """
    if messages := {**(overrides or {}), **mistakes(config)}:
        raise MistakenConfig(config, messages)

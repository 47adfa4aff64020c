"""The files next to exported weights: config.json and the model card, README.md."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cls.models.registry import Variant
from cls.weights import published
from cls.weights.targets import Target

_WEIGHTS = {'keras': 'model.h5'}  # format -> name of the file, if not model.safetensors


@dataclasses.dataclass(frozen=True)
class Images:
    """The preparation of images of a run, see cls.inference.Preprocess."""

    size: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    contrast: str = ''
    channels: int = 3
    squash: bool = False


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts that the files state.

    Attributes:
      format: timm, torchvision, keras or safetensors.
      variant: the registered variant.
      target: the package's network, None for the names of the variant's reference.
      classes: the number of outputs.
      labels: the classes in the order of the outputs, () if unknown.
      words: the classes in words, () if unknown.
      images: the preparation of images.
      license: an identifier of the Hub, '' if unknown.
      origin: sentences on the origin of the weights.
      training: sentences on the training.
      results: name of a metric -> value.
      notes: sentences on limits of the format.
      aux_head: whether the weights have auxiliary heads.
      space: 'BGR' if the first convolution expects this order.
    """

    format: str
    variant: Variant
    target: Target | None
    classes: int
    labels: Sequence[str]
    words: Sequence[str]
    images: Images
    license: str
    origin: Sequence[str]
    training: Sequence[str]
    results: Mapping[str, float]
    notes: Sequence[str]
    aux_head: bool = False
    space: str = ''

    @property
    def file(self) -> str:
        """The name of the file of weights."""
        return _WEIGHTS.get(self.format, 'model.safetensors')

    @property
    def architecture(self) -> str:
        """The package's name of the network, or the variant's."""
        return self.target.name if self.target else self.variant.name


def config(facts: Facts) -> dict[str, Any]:
    """Returns the content of config.json, as timm's loader from the Hub reads it."""
    images = facts.images
    channels = 3 if len(images.mean) == 1 and images.channels == 3 else 1
    fields: dict[str, Any] = {
        'custom_load': False,
        'input_size': [images.channels, images.size, images.size],
        'fixed_input_size': False,
        'interpolation': images.interpolation.removeprefix('tf_'),
        'crop_pct': crop_of(images.size, images.resize),
        'crop_mode': 'squash' if images.squash else 'center',
        'mean': [round(x / 255, 7) for x in images.mean] * channels,
        'std': [round(x / 255, 7) for x in images.std] * channels,
        'num_classes': facts.classes,
    }
    if facts.license:
        fields['license'] = facts.license
    if facts.space:
        fields['input_space'] = facts.space
    if facts.target and facts.target.layers:
        fields |= facts.target.layers
    content: dict[str, Any] = {
        'architecture': facts.architecture,
        'num_classes': facts.classes,
        'global_pool': 'avg',
        'pretrained_cfg': fields,
    }
    if images.channels != 3:
        content['model_args'] = {'in_chans': images.channels}
    if facts.labels:
        content['label_names'] = list(facts.labels)
        if facts.words:
            content['label_descriptions'] = dict(zip(facts.labels, facts.words, strict=True))
    return content


def crop_of(size: int, resize: int) -> float:
    """Returns the shortest fraction that makes timm resize to `resize` pixels."""
    for digits in range(1, 9):
        crop = math.floor(size / resize * 10**digits) / 10**digits
        if crop > 0 and math.floor(size / crop) == resize:
            return crop
    return math.nextafter(size / resize, 0)


def readme(facts: Facts) -> str:
    """Returns the model card."""
    images = facts.images
    title = f'{facts.variant.name}, as {facts.format} has it'
    if facts.target is None:
        title = facts.variant.name
    system = facts.variant.system
    lines = [
        '---',
        'tags:',
        '- image-classification',
        f'- {facts.variant.name}',
        *(['library_name: timm'] if facts.format == 'timm' else []),
        *([f'license: {facts.license}'] if facts.license else []),
        'pipeline_tag: image-classification',
        '---',
        f'# {title}',
        '',
        f'{system.name}: [{system.title}](https://arxiv.org/abs/{system.arxiv}) ({system.venue}), '
        f'{facts.classes:,} classes.',
        '',
        '## Use',
        '',
        *_use(facts),
        '',
        '## Images',
        '',
        f'Shorter side to {images.resize} pixels ({images.interpolation}), center crop of '
        f'{images.size} x {images.size}, {facts.space or "RGB"}, minus the mean '
        f'{_numbers(images.mean)}, divided by {_numbers(images.std)} (pixels in 0 to 255).',
        *(['', *facts.notes] if facts.notes else []),
        '',
        '## License and origin',
        '',
        _license(facts),
        *facts.origin,
        '',
        '## Training',
        '',
        *(facts.training or ['Not trained further by the run that was exported.']),
        '',
        '## Results',
        '',
        *_results(facts),
        '',
    ]
    return '\n'.join(lines)


def _numbers(values: Sequence[float]) -> str:
    return '(' + ', '.join(f'{x:g}' for x in values) + ')'


def _license(facts: Facts) -> str:
    if not facts.license:
        return 'The license of these weights is unknown.'
    more = '' if published.is_commercial(facts.license) else ' (no commercial use)'
    return f'License: {facts.license}{more}.'


def _results(facts: Facts) -> list[str]:
    if not facts.results:
        return ['None are known.']
    rows = [f'| {name} | {value:g} |' for name, value in facts.results.items()]
    return ['| metric | value |', '| --- | --- |', *rows]


def _use(facts: Facts) -> list[str]:
    name, classes, file = facts.architecture, facts.classes, facts.file
    if facts.format == 'timm':
        code = ['import timm', "model = timm.create_model('local-dir:FOLDER', pretrained=True)"]
    elif facts.format == 'torchvision':
        aux = f', aux_logits={facts.aux_head}' if facts.target and facts.target.optional else ''
        weights = f'num_classes={classes}{aux}'
        code = [
            'import collections',
            'import torchvision',
            'from safetensors.torch import load_file',
            f"model = torchvision.models.get_model('{name}', weights=None, {weights})",
            f"state = collections.OrderedDict(load_file('{file}'))",
            # Its MNASNet asks for the version of its stem; torch keeps it apart from tensors.
            *(["state._metadata = {'': {'version': 2}}"] if name.startswith('mnasnet') else []),
            'model.load_state_dict(state)',
        ]
    elif facts.format == 'keras':
        build, fields = name, ''
        if '_' in name:
            build, _, width = name.partition('_')
            fields = f', alpha={int(width) / 100:g}'
        if build.endswith('Minimalistic'):
            build, fields = build.removesuffix('Minimalistic'), f'{fields}, minimalistic=True'
        code = [
            'import keras',
            f'model = keras.applications.{build}(weights=None, classes={classes}{fields})',
            f"model.load_weights('{file}')",
        ]
    else:
        code = [
            'from cls import weights',
            f"variables = weights.from_torch(weights.read('{file}'), '{name}', "
            f'num_classes={classes})',
        ]
    return ['```python', *code, '```']

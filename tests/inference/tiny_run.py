"""Run folders of small networks with new weights, and images of several kinds."""

import io

import numpy as np
from PIL import Image

from cls import models
from cls.config import load as configs
from cls.models.registry.init import init
from cls.tools import import_weights

CLASSES = ('ant', 'bee', 'n01440764', 'dog')


def write_run(folder, *overrides, classes=CLASSES, channels=3, outputs=4, scale=1.0):
    """Writes the run folder of a shallow ResNet, whose data set does not exist.

    The averages of the weights are the weights, scaled.
    """
    fields = [
        ('model.stage_sizes', '(1, 1, 1)'),
        ('data.name', 'folder:/nowhere'),
        ('data.image_size', '32'),
        ('data.eval_resize', '36'),
        ('data.mean', '(120., 110., 100.)' if channels == 3 else '(120.,)'),
        ('data.std', '(60.,)'),
        *overrides,
    ]
    config = configs.load('resnet', fields)
    model = models.create('resnet20_cifar', stage_sizes=(1, 1, 1), num_classes=outputs)
    variables = init(model, 0, 32, channels)
    rng = np.random.default_rng(0)
    stats = variables['batch_stats']
    for norm in _leaves(stats):
        norm['mean'] = rng.normal(size=norm['mean'].shape).astype(np.float32)
    averages = {
        'params': _scaled(variables['params'], scale),
        'batch_stats': variables['batch_stats'],
    }
    import_weights.write(config, variables, folder, averages if config.ema else None, classes)
    return folder


def _leaves(tree):
    if 'mean' in tree:
        yield tree
        return
    for part in tree.values():
        yield from _leaves(part)


def _scaled(tree, factor):
    return {
        name: _scaled(x, factor) if isinstance(x, dict) else (x * factor).astype(np.float32)
        for name, x in tree.items()
    }


def pixels(seed, height, width, channels=3):
    """Returns a smooth random image, (height, width, channels) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(256, size=(6, 7, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return image[..., :channels]


def encoded(array, form='PNG', **options):
    """Returns the content of a file with an image."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **options)
    return file.getvalue()

"""Test data for EfficientNet: golden tasks, default variants and listed rows; see zoo.py."""

import functools

from golden.task import Task

# Width and depth of smaller networks in place of the largest.
REDUCED = {'b5': (0.6, 0.7), 'b6': (0.7, 0.6), 'b7': (0.5, 1.1), 'b8': (0.4, 0.9), 'l2': (0.3, 1.2)}
PUBLISHED = {
    'b5': (1.6, 2.2),
    'b6': (1.8, 2.6),
    'b7': (2.0, 3.1),
    'b8': (2.2, 3.6),
    'l2': (4.3, 5.3),
}
NAMES = ('b0', 'b1', 'b2', 'b3', 'b4', *REDUCED)
EDGES = ('es', 'em', 'el')
LITE = tuple(f'lite{n}' for n in range(5))


def _timm(name, width=None, depth=None):
    from timm.models import efficientnet

    published = PUBLISHED[name.rsplit('_', 1)[1]]
    tf = {'pad_type': 'same', 'bn_eps': 1e-3} if name.startswith('tf_') else {}
    return efficientnet._gen_efficientnet(
        name,
        channel_multiplier=width or published[0],
        depth_multiplier=depth or published[1],
        **tf,
    )


def _task(name, size):
    short = name.rsplit('_', 1)[1]
    if short not in REDUCED:
        return Task(f'timm:{name}', size)
    fields = dict(zip(('width', 'depth'), REDUCED[short], strict=True))
    return Task(f'timm:{name}', size, fields=fields, build=functools.partial(_timm, name))


# TensorFlow's padding differs at even and at odd sizes: 72, 36, 18, 9, 5, 3.
TASKS = (
    *(_task(f'efficientnet_{name}', 64) for name in (*NAMES, 'lite0')),
    *(_task(f'tf_efficientnet_{name}', 72) for name in (*NAMES, *LITE)),
    *(Task(f'timm:efficientnet_{name}') for name in EDGES),
    *(Task(f'timm:tf_efficientnet_{name}', 72) for name in EDGES),
)
DEFAULT = ('tf_efficientnet_b0', 'efficientnet_lite0', 'tf_efficientnet_es')
CSV = ('EfficientNet',)
LISTED = {
    f'{form}efficientnet_{name}': f'efficientnet_{name}' for form in ('', 'tf_') for name in NAMES
}
UNLISTED = {}

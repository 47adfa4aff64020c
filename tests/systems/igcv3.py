"""Test data for IGCV3: golden tasks, default variants and listed rows; see zoo.py."""

import functools

from golden.task import Task


def _scaled(width):
    """Returns pytorchcv's network of an unnamed width; its last pool would be 7x7."""
    import torch
    from pytorchcv.models.igcv3 import get_igcv3

    module = get_igcv3(width)
    module.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)
    return module


SMALL = {'stage_sizes': (1, 2, 1, 2, 1, 2, 1)}
TASKS = (
    Task('pytorchcv:igcv3_w1', size=32),
    Task('pytorchcv:igcv3_w3d4', size=32),
    Task('pytorchcv:igcv3_wd2', size=32),
    Task('pytorchcv:igcv3_wd4', size=32),
    Task('pytorchcv:get_igcv3(0.7)', size=32, build=functools.partial(_scaled, 0.7)),
    Task('pytorchcv:get_igcv3(1.4)', size=32, build=functools.partial(_scaled, 1.4)),
    Task('restated:igcv3_0_7', size=32, fields=SMALL),
    Task('restated:igcv3_1_4', size=32, fields=SMALL),
)
DEFAULT = ('igcv3_1_4',)
CSV = ('IGCV3',)
LISTED = {
    'igcv3_w1': 'igcv3_d_1.0',
    'igcv3_w0_7': 'igcv3_d_0.7',
    'igcv3_w1_4': 'igcv3_d_1.4',
    **{name: f'{name} (package)' for name in ('igcv3_w3d4', 'igcv3_wd2', 'igcv3_wd4')},
}
UNLISTED = {}

"""Test data for ShuffleNet: golden tasks, default variants and listed rows; see zoo.py."""

import functools

from golden.task import Task


def _scaled(scale):
    """Returns pytorchcv's network of an unnamed width; its last pool would be 7x7."""
    import torch
    from pytorchcv.models.shufflenet import get_shufflenet

    module = get_shufflenet(groups=3, width_scale=scale)
    module.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)
    return module


NAMED = ('g1_w1', 'g2_w1', 'g3_w1', 'g4_w1', 'g8_w1', 'g3_wd4', 'g3_wd2', 'g3_w3d4')
NAMED += ('g1_wd4', 'g1_wd2', 'g1_w3d4')
TASKS = (
    *(Task(f'pytorchcv:shufflenet_{name}') for name in NAMED),
    Task('pytorchcv:shufflenet_g3_w3d2', build=functools.partial(_scaled, 1.5)),
    Task('pytorchcv:shufflenet_g3_w2', build=functools.partial(_scaled, 2.0)),
    Task('restated:shufflenet_g3_2x_se'),
)
DEFAULT = ('shufflenet_g3_0.25x', 'shufflenet_g3_2x_se')
CSV = ('ShuffleNet',)
LISTED = {
    **{f'shufflenet_g{groups}_1x': f'shufflenet_g{groups}_1x' for groups in (1, 2, 3, 4, 8)},
    **{f'shufflenet_g3_{scale}': f'shufflenet_g3_{scale}' for scale in ('0.25x', '0.5x', '1.5x')},
    'shufflenet_g3_2x': 'shufflenet_g3_2x',
    'shufflenet_g3_2x_se': 'shufflenet_g3_2x_SE',
}
UNLISTED = {}

"""Test data for PolyNet: golden tasks, default variants and listed rows; see zoo.py."""

from typing import Any

from golden.task import Task


def released() -> Any:
    """Returns the release, with global average pooling in place of 9x9."""
    import pretrainedmodels
    import torch

    module = pretrainedmodels.polynet(pretrained=None)
    module.avg_pool = torch.nn.AdaptiveAvgPool2d(1)
    return module


SMALL = {
    'stage_a': ('1-way', '2-way'),
    'stage_b': ('3-way', 'mpoly-3', 'poly-3'),
    'stage_c': ('poly-2', 'mpoly-2'),
    'width': 0.25,
    'path_drop_rate': 0.3,
}
TASKS = (
    Task('pretrainedmodels:polynet', size=107, build=released),
    Task('restated:polynet_mixed_b', size=107, fields=SMALL),
)
DEFAULT = ('polynet_mixed_b',)  # the release has 515 convolutions
CSV = ('PolyNet',)
LISTED = {'polynet': 'polynet (very deep)'}
UNLISTED = {}

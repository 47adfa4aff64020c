"""Test data for SqueezeNet: golden tasks, default variants and listed rows; see zoo.py."""

import functools

from golden.task import Task


def _of_any_size(version):
    """Returns pytorchcv's network, with global average pooling in place of 13x13."""
    import torch
    from pytorchcv.model_provider import get_model

    module = get_model(f'squeezeresnet_{version}', pretrained=False)
    module.output.final_pool = torch.nn.AdaptiveAvgPool2d(1)
    return module


TASKS = (
    Task('torchvision:squeezenet1_0'),
    Task('torchvision:squeezenet1_1'),
    *(
        Task(f'pytorchcv:squeezeresnet_{version}', build=functools.partial(_of_any_size, version))
        for version in ('v1_0', 'v1_1')
    ),
    Task('restated:squeezenet1_0_complex'),
)
DEFAULT = ('squeezenet1_1', 'squeezenet1_0_simple', 'squeezenet1_0_complex')
CSV = ('SqueezeNet',)
LISTED = {
    'squeezenet1_0': 'squeezenet1_0',
    'squeezenet1_1': 'squeezenet1_1',
    'squeezenet1_0_simple': 'squeezenet1_0 simple bypass',
    'squeezenet1_0_complex': 'squeezenet1_0 complex bypass',
}
UNLISTED = {}

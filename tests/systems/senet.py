"""Test data for SENet: golden tasks, default variants and listed rows; see zoo.py."""

from golden import cifar
from golden.task import Task


def seresnetbc14b():
    """Returns pytorchcv's network of this depth; only that of 200 classes has a name."""
    import torch
    from pytorchcv.models.seresnet import get_seresnet

    module = get_seresnet(14, bottleneck=True, conv1_stride=False)
    module.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)
    return module


RESIDUAL = (
    'seresnet50',
    'seresnet101',
    'seresnet152',
    'seresnext50_32x4d',
    'seresnext101_32x4d',
    'senet154',
)
DEPTHS = ('10', '12', '14', '16', '18', '26', '34', 'bc26b', 'bc38b', '50b', '101b', '152b')
DEPTHS += ('200', '200b')
SHALLOW = (
    *(f'{family}{depth}' for family in ('seresnet', 'sepreresnet') for depth in DEPTHS),
    *(f'sepreresnet{depth}' for depth in ('50', '101', '152')),
    *(f'senet{depth}' for depth in (16, 28, 40, 52, 103)),
    'seresnext101_64x4d',
)
# Depth, and whether its units are bottlenecks.
CIFAR = {20: False, 56: False, 110: False, 1202: False, 164: True, 272: True, 542: True, 1001: True}
TIMM = ('legacy_seresnet18', 'legacy_seresnet34', 'legacy_seresnext26_32x4d', 'seresnet152d')
TIMM += tuple(f'seresnext{name}' for name in ('26d_32x4d', '26t_32x4d', '101_32x8d', '101d_32x8d'))
TASKS = (
    *(Task(f'timm:legacy_{name}') for name in RESIDUAL),
    *(Task(f'timm:{name}') for name in TIMM),
    # Logits of smaller images differ too little, or chaotically.
    Task('restated:se_bn_inception', size=160),
    *(Task(f'pytorchcv:{name}') for name in SHALLOW),
    Task('pytorchcv:seresnetbc14b', build=seresnetbc14b),
    *(
        cifar.task(family, depth, bottleneck)
        for family in ('seresnet', 'sepreresnet')
        for depth, bottleneck in CIFAR.items()
    ),
)
DEFAULT = ('seresnet50', 'se_bn_inception', 'seresnet10', 'senet16')
DEFAULT += ('seresnet20_cifar', 'sepreactresnet10', 'sepreactresnet20_cifar', 'seresnext26t_32x4d')
CSV = ('SENet',)
LISTED = {name: name for name in (*RESIDUAL, 'se_bn_inception')}
UNLISTED = {}

"""Test data for PyramidNet: golden tasks, default variants and listed rows; see zoo.py."""

import functools

from golden.task import Task

BASIC = ('110_a48', '110_a84', '110_a270')
BOTTLENECK = ('164_a270', '200_a240', '236_a220', '272_a200')


def imagenet(depth, alpha):
    import torch
    from pytorchcv.models import pyramidnet

    module = pyramidnet.get_pyramidnet(depth, alpha)
    module.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)
    return module


TASKS = (
    *(Task(f'pytorchcv:pyramidnet{name}_cifar10', size=16) for name in BASIC),
    *(Task(f'pytorchcv:pyramidnet{name}_bn_cifar10', size=16) for name in BOTTLENECK),
    *(
        Task(f'pytorchcv:pyramidnet{d}_a{a}', build=functools.partial(imagenet, d, a))
        for d, a in ((101, 360), (200, 300), (200, 450))
    ),
)
DEFAULT = ('pyramidnet110_a48_cifar', 'pyramidnet101_a360')
CSV = ('PyramidNet',)
LISTED = {
    **{f'pyramidnet{name}_cifar': f'pyramidnet{name}_cifar' for name in BASIC},
    **{f'pyramidnet{name}_cifar': f'pyramidnet{name}_bn_cifar' for name in BOTTLENECK},
    'pyramidnet101_a360': 'pyramidnet101_a360',
    'pyramidnet200_a300': 'pyramidnet200_a300',
    'pyramidnet200_a450': 'pyramidnet200_a450 (dropout .5)',
}
UNLISTED = {}

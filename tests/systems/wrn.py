"""Test data for WRN: golden tasks, default variants and listed rows; see zoo.py."""

import functools

from golden.task import Task

CIFAR = {
    'wrn40_1': (40, 1),
    'wrn40_2': (40, 2),
    'wrn40_4': (40, 4),
    'wrn40_8': (40, 8),
    'wrn28_10': (28, 10),
    'wrn28_12': (28, 12),
    'wrn22_8': (22, 8),
    'wrn22_10': (22, 10),
    'wrn16_8': (16, 8),
    'wrn16_10': (16, 10),
}
# Blocks in each stage, widening factor; unwidened networks are ResNets, with rows in that file.
IMAGENET = {
    'wrn18_1.5': ((2, 2, 2, 2), 1.5),
    'wrn18_2': ((2, 2, 2, 2), 2),
    'wrn18_3': ((2, 2, 2, 2), 3),
    'wrn34_1.5': ((3, 4, 6, 3), 1.5),
    'wrn34_2': ((3, 4, 6, 3), 2),
}


def pytorchcv(depth, k):
    import torch
    from pytorchcv.models import wrn_cifar

    module = wrn_cifar.get_wrn_cifar(num_classes=10, blocks=depth, width_factor=k)
    module.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)
    return module


def timm(sizes, k):
    from timm.models import resnet

    widths = [int(k * width) for width in (64, 128, 256, 512)]
    return resnet.ResNet(resnet.BasicBlock, sizes, channels=widths)


TASKS = (
    *(
        Task(f'pytorchcv:{name}_cifar10', size=16, build=functools.partial(pytorchcv, *shape))
        for name, shape in CIFAR.items()
    ),
    *(
        Task(f'timm:{name}', build=functools.partial(timm, *shape))
        for name, shape in IMAGENET.items()
    ),
    Task('torchvision:wide_resnet50_2'),
    Task('torchvision:wide_resnet101_2'),
)
DEFAULT = ('wrn40_2_cifar', 'wrn18_1.5', 'wrn50_2')
CSV = ('WRN',)
LISTED = {
    **{f'{name}_cifar': f'{name}_cifar' for name in CIFAR if name != 'wrn28_10'},
    'wrn28_10_cifar': 'wrn28_10_cifar (meanstd)',
    **{name: name for name in ('wrn18_1', 'wrn34_1', *IMAGENET)},
    'wrn50_2': 'wrn50_2_bottleneck',
}
UNLISTED = {
    'wrn28_10_cifar|wrn28_10_cifar10': 'the same network, trained on whitened images',
    'wrn28_10_cifar|wrn28_10_cifar100': 'the same network with num_classes=100',
}

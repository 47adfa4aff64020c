"""Test data for ResNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden import cifar
from golden.task import Task

SMALL = ('10', '12', '14', '16', '18_wd4', '18_wd2', '18_w3d4', '26', 'bc14b', 'bc38b')
# Depth, and whether its units are bottlenecks, of networks for CIFAR with projections.
PROJECTED = {20: False, 56: False, 110: False, 1202: False}
PROJECTED |= {164: True, 272: True, 542: True, 1001: True}
TRICKS = ('10t', '14t', '18d', '26d', '26t', '34d', '200d')
TRICKS += tuple(f'{depth}{form}' for depth in (50, 101, 152) for form in 'cds')
TASKS = (
    *(Task(f'torchvision:resnet{depth}') for depth in (18, 34, 50, 101, 152)),
    *(Task(f'pytorchcv:resnet{depth}') for depth in (50, 101, 152)),
    *(Task(f'restated:resnet{depth}_cifar', size=32) for depth in (20, 32, 44, 56, 110)),
    *(Task(f'pytorchcv:resnet{name}') for name in (*SMALL, '200', '200b')),
    Task('timm:resnet26'),
    *(Task(f'pytorchcv:{name}') for name in ('resneta10', 'resnetabc14b')),
    *(Task(f'timm:resnet{name}') for name in TRICKS),
    *(cifar.task('resnet', depth, bottleneck) for depth, bottleneck in PROJECTED.items()),
)
DEFAULT = ('resnet18', 'resnet50', 'resnet50_v1', 'resnet20_cifar')
DEFAULT += ('resnet18_wd4', 'resnet20_cifar_projected', 'resnet10t', 'resnet26d')
CSV = ('ResNet',)
LISTED = {
    **{f'resnet{d}': f'resnet{d}' for d in (18, 34, 50, 101, 152)},
    'resnet50_v1': 'resnet50 (paper v1: stride on first 1x1)',
    **{f'resnet{d}_v1': f'resnet{d} (v1)' for d in (101, 152)},
    **{f'resnet{d}_cifar': f'resnet{d}_cifar' for d in (20, 32, 44, 56, 110, 1202)},
    **{
        f'resnet{d}_cifar_projected': f'resnet{d}_cifar10 (option B, package)'
        for d in (20, 56, 110, 1202)
    },
    'resnet164_cifar': 'resnet164bn_cifar10 (option B, package)',
    'resnet1001_cifar': 'resnet1001_cifar10 (option B, package)',
}
UNLISTED = {}

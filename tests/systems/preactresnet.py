"""Test data for PreActResNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden import cifar
from golden.task import Task

IMAGENET = ('18', '34', '50', '50b', '101', '101b', '152', '152b', '200', '200b')

SMALL = ('10', '12', '14', '16', '18_wd4', '18_wd2', '18_w3d4', '26')
SMALL += ('bc14b', 'bc26b', 'bc38b', '269b')
# Depth, and whether its units are bottlenecks.
CIFAR = {20: False, 56: False, 272: True, 542: True, 1202: False}

TASKS = (
    *(Task(f'pytorchcv:preresnet{name}') for name in IMAGENET),
    Task('pytorchcv:preresnet110_cifar10', size=32),
    Task('pytorchcv:preresnet164bn_cifar10', size=24),
    Task('restated:preactresnet1001_cifar', size=32, fields={'stage_sizes': (3, 2, 2)}),
    *(Task(f'pytorchcv:preresnet{name}') for name in SMALL),
    *(cifar.task('preresnet', depth, bottleneck) for depth, bottleneck in CIFAR.items()),
)
DEFAULT = ('preactresnet18', 'preactresnet50', 'preactresnet18_wd4', 'preactresnet20_cifar')
CSV = ('PreActResNet',)
LISTED = {
    **{
        f'preactresnet{name}': f'preresnet{name}'
        for name in ('18', '34', '50', '50b', '101b', '152', '152b')
    },
    'preactresnet200b': 'preresnet200',
    'preactresnet110_cifar': 'preresnet110_cifar10',
    'preactresnet164_cifar': 'preresnet164bn_cifar10',
    'preactresnet1001_cifar': 'preresnet1001_cifar10',
}
UNLISTED = {}

"""Test data for ResNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TASKS = (
    *(Task(f'torchvision:resnet{depth}') for depth in (18, 34, 50, 101, 152)),
    *(Task(f'pytorchcv:resnet{depth}') for depth in (50, 101, 152)),
    *(Task(f'restated:resnet{depth}_cifar', size=32) for depth in (20, 32, 44, 56, 110)),
)
DEFAULT = ('resnet18', 'resnet50', 'resnet50_v1', 'resnet20_cifar')
CSV = ('ResNet',)
LISTED = {
    **{f'resnet{d}': f'resnet{d}' for d in (18, 34, 50, 101, 152)},
    'resnet50_v1': 'resnet50 (paper v1: stride on first 1x1)',
    **{f'resnet{d}_v1': f'resnet{d} (v1)' for d in (101, 152)},
    **{f'resnet{d}_cifar': f'resnet{d}_cifar' for d in (20, 32, 44, 56, 110, 1202)},
}
UNLISTED = {
    f'resnet{name}_cifar10 (option B, package)': 'projections, where the paper has none'
    for name in ('20', '56', '110', '1202', '164bn', '1001')
}

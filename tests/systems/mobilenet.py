"""Test data for MobileNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

WIDTHS = {'100': '1.0', '075': '0.75', '050': '0.5', '025': '0.25'}
TASKS = (
    Task('timm:mobilenetv1_100'),
    Task('timm:mobilenetv1_100h'),
    Task('timm:mobilenetv1_125'),
    *(Task(f'pytorchcv:mobilenet_{name}') for name in ('w3d4', 'wd2', 'wd4')),
    *(Task(f'restated:mobilenet_{name}_tf') for name in WIDTHS),
)
DEFAULT = ('mobilenet_025', 'mobilenet_025_tf')
CSV = ('MobileNet',)
LISTED = {f'mobilenet_{name}': f'mobilenet_{width}' for name, width in WIDTHS.items()}
UNLISTED = {}

"""Test data for SKNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TASKS = (
    Task('timm:skresnext50_32x4d'),
    Task('pytorchcv:sknet101'),
    Task('pytorchcv:sknet152'),
)
DEFAULT = ('sknet50',)
CSV = ('SKNet',)
LISTED = {'sknet50': 'sknet50', 'sknet101': 'sknet101', 'sknet152': 'sknet152 (package)'}
UNLISTED = {}

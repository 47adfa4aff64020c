"""Test data for DARTS: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

SMALL = {'stage_sizes': (1, 2, 2), 'filters': 8, 'aux_head': False}
TASKS = (
    Task('pytorchcv:darts', 32, fields={'aux_head': False}),
    Task('restated:darts_v2_cifar', 32, fields=SMALL),
    Task('restated:darts_v1_cifar', 16, fields=SMALL),
)
DEFAULT = ('darts_v2', 'darts_v1_cifar')
CSV = ('DARTS',)
LISTED = {
    'darts_v2': 'darts_imagenet (V2, C=48, L=14)',
    'darts_v2_cifar': 'darts_v2_cifar (C=36,L=20)',
    'darts_v1_cifar': 'darts_v1_cifar',
}
UNLISTED = {}

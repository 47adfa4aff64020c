"""Test data for IGCV2: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TASKS = (
    Task('restated:igcv2_1_0', size=32),
    Task('restated:igcv2_0_5', size=32),
    Task('restated:igcv2_0_25', size=32),
    Task('restated:igcv2_c416_cifar', size=8, fields={'stage_sizes': (2, 1, 1)}),
)
DEFAULT = ('igcv2_0_25', 'igcv2_c416_cifar')
CSV = ('IGCV2',)
LISTED = {
    'igcv2_1_0': 'igcv2_1.0',
    'igcv2_0_5': 'igcv2_0.5',
    'igcv2_0_25': 'igcv2_0.25',
    'igcv2_c416_cifar': 'igcv2 0.65M CIFAR-100',
}
UNLISTED = {'igcv2 (CIFAR)': 'only its number of parameters, to two digits, is published'}

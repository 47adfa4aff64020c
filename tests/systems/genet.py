"""Test data for GeNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

SMALL = {'widths': (16, 24, 32), 'stem': (8, 12), 'hidden': (64, 48)}
TASKS = (
    *(Task(f'restated:genet_{i}', 64, fields=SMALL) for i in (1, 2)),
    *(Task(f'restated:genet_{i}_cifar', 32, fields={'widths': (16, 24, 32)}) for i in (1, 2)),
)
DEFAULT = ('genet_2', 'genet_1_cifar')
CSV = ('GeNet',)
LISTED = {name: name for name in ('genet_1', 'genet_2', 'genet_1_cifar', 'genet_2_cifar')}
UNLISTED = {}

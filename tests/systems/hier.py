"""Test data for hier: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TASKS = (
    Task('restated:hier', 72, fields={'features': 8, 'cells': 1}),
    Task('restated:hier_c64_cifar', 32, fields={'features': 6}),
    Task('restated:hier_c128_cifar', 28, fields={'features': 8, 'cells': 1}),
)
DEFAULT = ('hier_c128_cifar',)
CSV = ('hier',)
# The list has the network twice, without a reference and so without counts to compare.
LISTED = dict.fromkeys(('hier', 'hier_c64_cifar', 'hier_c128_cifar'), 'hier_evolved|')
UNLISTED = {}

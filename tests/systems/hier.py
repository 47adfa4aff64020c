"""What tests know of hier beside what is registered; see zoo.py."""

from golden.task import Task

TASKS = (
    Task('restated:hier', 72, fields={'features': 8, 'cells': 1}),
    Task('restated:hier_c64_cifar', 32, fields={'features': 6}),
    Task('restated:hier_c128_cifar', 28, fields={'features': 8, 'cells': 1}),
)
DEFAULT = ('hier_c128_cifar',)
CSV = ('hier',)
# The list has the net twice, without a reference and so without counts to hold these against.
LISTED = dict.fromkeys(('hier', 'hier_c64_cifar', 'hier_c128_cifar'), 'hier_evolved|')
UNLISTED = {}

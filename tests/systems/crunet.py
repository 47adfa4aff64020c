"""Test data for CRU-Net: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

# Two collective stages, and a second set of shared kernels in one of them.
SMALL = {
    'block_sizes': (1, 6, 8, 1),
    'collective': (0, 40, 72, 0),
    'width': 64,
    'inner': 32,
    'groups': 8,
}
DEPTHWISE = {'block_sizes': (1, 2, 2, 1), 'collective': (0, 0, 40, 0), 'width': 64, 'inner': 34}
TASKS = (
    Task('restated:crunet56'),
    Task('restated:crunet56_136x1d', fields=DEPTHWISE),
    Task('restated:crunet116', fields=SMALL),
)
DEFAULT = ('crunet56_136x1d', 'crunet116')
CSV = ('CRU-Net',)
LISTED = {
    'crunet56': 'crunet56_32x4d@x14',
    'crunet56_136x1d': 'crunet56 136x1d@x14',
    'crunet116': 'crunet116_32x4d@x28x14',
}
UNLISTED = {
    'crunet116 wider 64x4d': 'the width of the shared convolutions is not published',
    'crunet56 tiny': 'widths are not published',
}

"""Test data for RiR: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

SMALL = {'stage_sizes': (1, 1, 1), 'widths': (16, 24, 32)}
TASKS = (
    *(Task(f'pytorchcv:rir_cifar{classes}', 32) for classes in (10, 100)),
    Task('restated:rir18_wide_cifar_paper', 32),
    Task('restated:rir18_wide_cifar100_paper', 32, fields=SMALL),
)
DEFAULT = ('rir18_wide_cifar', 'rir18_wide_cifar_paper')
CSV = ('RiR',)
LISTED = {
    'rir18_wide_cifar': 'rir18_wide (18-layer + wide RiR)',
    'rir18_wide_cifar100': 'rir18_wide',
}
UNLISTED = {}

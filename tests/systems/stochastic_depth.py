"""Test data for stochastic depth: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TASKS = (
    Task('restated:resnet110_sd_cifar', size=32),
    Task('restated:resnet1202_sd_cifar', size=16, fields={'stage_sizes': (2, 3, 1)}),
    Task('restated:resnet152_sd_svhn', size=16, fields={'stage_sizes': (1, 2, 3)}),
    Task('restated:resnet152_sd', fields={'stage_sizes': (1, 2, 2, 1)}),
)
DEFAULT = ('resnet152_sd', 'resnet1202_sd_cifar')
CSV = ('Stochastic Depth',)
LISTED = {
    'resnet110_sd_cifar': 'resnet110_sd',
    'resnet152_sd': 'resnet152_sd',
}
UNLISTED = dict.fromkeys(
    ('resnet1202_sd', 'resnet152_sd svhn (N=25)'),
    "counted without the convolutions' biases of the authors' code",
)

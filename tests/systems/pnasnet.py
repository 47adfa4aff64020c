"""Test data for PNASNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TASKS = (
    Task('timm:pnasnet5large', 48, fields={'aux_head': False}),
    Task(
        'restated:pnasnet5_mobile', 48, fields={'cells': 1, 'filters': 14, 'aux_head': False}
    ),  # an odd number of channels in the stem
    Task(
        'restated:pnasnet5_cifar',
        24,
        fields={'cells': 1, 'filters': 8, 'stem_filters': 24, 'aux_head': False},
    ),
)
DEFAULT = ('pnasnet5_cifar',)
CSV = ('PNASNet',)
LISTED = {
    'pnasnet5_large': 'pnasnet5_large (N=4,F=216)',
    'pnasnet5_mobile': 'pnasnet5_mobile (N=3,F=54)',
    'pnasnet5_cifar': 'pnasnet5_cifar (N=3,F=48)',
}
UNLISTED = {}

"""Test data for CondenseNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

CIFAR = tuple(f'condensenet{depth}_cifar' for depth in (50, 74, 86, 98, 110, 122, 182))
IMAGENET = ('condensenet74_c4_g4', 'condensenet74_c8_g8')
SHALLOW = {'stage_sizes': (3, 2, 2)}
SHALLOW_IMAGENET = {'stage_sizes': (2, 2, 1, 2, 1)}
TASKS = (
    *(Task(f'pytorchcv:{name}') for name in IMAGENET),
    Task('restated:condensenet50_cifar', 32),
    *(Task(f'restated:{name}', 32, fields=SHALLOW) for name in CIFAR[1:]),
    *(Task(f'restated:{name}_learned', 32, fields=SHALLOW) for name in CIFAR),
    *(Task(f'restated:{name}_learned', 128, fields=SHALLOW_IMAGENET) for name in IMAGENET),
)
DEFAULT = ('condensenet74_cifar', 'condensenet74_c8_g8_learned')
CSV = ('CondenseNet',)
LISTED = {
    'condensenet74_c4_g4': 'condensenet74 C=G=4',
    'condensenet74_c8_g8': 'condensenet74 C=G=8',
    **{name: name for name in CIFAR},
}
UNLISTED = {}

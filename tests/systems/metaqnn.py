"""Test data for MetaQNN: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

SIZES = {'cifar': 32, 'svhn': 32, 'mnist': 28}
FIRST = {'cifar': (1, 6), 'svhn': (1, 6), 'mnist': (0, 10)}
# Linear layers fit one image size. Global average pooling of many pixels gives nearly equal logits.
SMALLER = {'8_mnist': 8}
NUMBERED = [(f'{n}_{data}', size) for data, size in SIZES.items() for n in range(*FIRST[data])]
TASKS = (
    *(Task(f'restated:metaqnn_{name}', SMALLER.get(name, size)) for name, size in NUMBERED),
    Task('restated:metaqnn_1_cifar100', 32),
)
# With linear layers, and with a global mean.
DEFAULT = ('metaqnn_5_cifar', 'metaqnn_8_mnist')
CSV = ('MetaQNN',)
LISTED = {
    'metaqnn_1_cifar': 'metaqnn_cifar_top1|metaqnn floor A2.1',
    **{f'metaqnn_{n}_cifar': f'metaqnn_cifar_{n}' for n in range(2, 6)},
    'metaqnn_1_cifar100': 'metaqnn_cifar_top1|metaqnn floor A2.1 c100',
    **{f'metaqnn_{n}_svhn': f'metaqnn_svhn_{n}' for n in range(1, 6)},
}
UNLISTED = {}

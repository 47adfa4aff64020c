"""Test data for FractalNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TASKS = (
    *(Task(f'pytorchcv:fractalnet_cifar{classes}', 32) for classes in (10, 100)),
    Task('restated:fractalnet20_c3_cifar', 32),
    # Narrow, and with three blocks if rounding errors grow too much in five.
    Task('restated:fractalnet20_c3_cifar100', 32, fields={'widths': (8, 12, 16, 20, 24)}),
    Task('restated:fractalnet40_c4_cifar', 32, fields={'widths': (24, 32, 40)}),
    Task('restated:fractalnet34', 80, fields={'widths': (16, 24, 32, 40)}),
)
DEFAULT = ('fractalnet20_c3_cifar_joined', 'fractalnet40_c4_cifar', 'fractalnet34')
CSV = ('FractalNet',)
LISTED = {
    'fractalnet20_c3_cifar': 'fractalnet20_c3_cifar|fractalnet_cifar10',
    'fractalnet20_c3_cifar_joined': 'fractalnet20_c3_cifar|fractalnet_cifar10',
    'fractalnet20_c3_cifar100': 'fractalnet20_c3_cifar|fractalnet_cifar100',
    'fractalnet20_c3_cifar100_joined': 'fractalnet20_c3_cifar|fractalnet_cifar100',
    'fractalnet40_c4_cifar': 'fractalnet40_c4_cifar',
    'fractalnet34': 'fractalnet34',
}
UNLISTED = {}

"""Test data for DenseNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task


def densenet264():
    """Returns torchvision's network of this depth; it has no constructor of its own."""
    from torchvision.models.densenet import DenseNet

    return DenseNet(32, (6, 12, 64, 48), 64)


BC = ('100_k12', '250_k24', '190_k40')
SMALL_BC = ('40_k12', '40_k24', '40_k36')
PLAIN = ('40_k12', '100_k12', '100_k24')
SHALLOW = {'block_sizes': (8, 6, 4)}
TASKS = (
    *(Task(f'torchvision:densenet{depth}') for depth in (121, 161, 169, 201)),
    Task('torchvision:densenet264', build=densenet264),
    *(Task(f'pytorchcv:densenet{name}_bc_cifar10', size=32) for name in (*BC, *SMALL_BC)),
    *(Task(f'pytorchcv:densenet{name}_cifar10', size=32) for name in PLAIN),
    *(Task(f'restated:densenet{name}_cifar', size=32) for name in PLAIN[:1]),
    *(Task(f'restated:densenet{name}_cifar', 32, fields=SHALLOW) for name in PLAIN[1:]),
)
DEFAULT = ('densenet121', 'densenet40_k12_bc_cifar', 'densenet100_k12_cifar')
DEFAULT += ('densenet40_k12_c_cifar',)
CSV = ('DenseNet',)
LISTED = {
    **{f'densenet{depth}': f'densenet{depth}' for depth in (121, 161, 169, 201)},
    'densenet264': 'densenet264 (k=32)',
    **{f'densenet{name}_bc_cifar': f'densenet{name}_bc_cifar' for name in BC},
    **{f'densenet{name}_cifar': f'densenet{name}_cifar' for name in PLAIN},
}
UNLISTED = {}

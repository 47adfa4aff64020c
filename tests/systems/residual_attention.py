"""Test data for Residual Attention: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

SMALL = {'modules': (1, 1, 1), 'widths': (64, 64, 96)}
TASKS = (
    *(Task(f'pytorchcv:resattnet{depth}') for depth in (56, 92)),
    Task('restated:attentionnext56', fields={'widths': (64, 128, 128, 256)}),
    *(Task(f'restated:attention{depth}_cifar', size=32, fields=SMALL) for depth in (92, 236, 452)),
)
DEFAULT = ('attention56', 'attentionnext56', 'attention92_cifar')
CSV = ('Residual Attention',)
LISTED = {
    'attention56': 'attention56',
    'attention92': 'attention92',
    'attentionnext56': 'attentionNeXt56',
    **{f'attention{depth}_cifar': f'attention{depth}_cifar' for depth in (92, 236, 452)},
}
UNLISTED = {
    f'resattnet{depth} (package only)': "names of the paper's CIFAR networks for ImageNet networks"
    for depth in (128, 164, 200, 236, 452)
}

"""Test data for VGG: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

DEPTHS = {'vgg11': 'A', 'vgg13': 'B', 'vgg16': 'D', 'vgg19': 'E'}
# Images of 96 pixels also test a last map of 3x3 pixels in 7x7 bins; 32 pixels leave 1.
TASKS = (
    *(Task(f'torchvision:{name}{bn}', size=32) for name in DEPTHS for bn in ('', '_bn')),
    *(Task(f'restated:{n}', size=96, fields={'hidden': 64}) for n in ('vgg11_lrn', 'vgg16_c')),
)
DEFAULT = ('vgg11_lrn', 'vgg16_c', 'vgg11_bn')
CSV = ('VGG',)
LISTED = {
    **{name: f'{name} ({letter})' for name, letter in DEPTHS.items()},
    **{f'{name}_bn': f'{name}_bn' for name in DEPTHS},
    'vgg16_c': 'vgg16 (C, three 1x1 convs)',
    'vgg11_lrn': 'vgg A-LRN',
}
UNLISTED = {}

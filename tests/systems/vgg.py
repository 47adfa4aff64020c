"""What tests know of VGG beside what is registered; see zoo.py."""

from golden.task import Task

DEPTHS = {'vgg11': 'A', 'vgg13': 'B', 'vgg16': 'D', 'vgg19': 'E'}
TASKS = (
    *(Task(f'torchvision:{name}{bn}', size=32) for name in DEPTHS for bn in ('', '_bn')),
    *(
        Task(f'restated:{name}', size=32, fields={'hidden': 64})
        for name in ('vgg11_lrn', 'vgg16_c')
    ),
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

"""What tests know of VGG beside what is registered; see zoo.py."""

from golden.task import Task

DEPTHS = {'vgg11': 'A', 'vgg13': 'B', 'vgg16': 'D', 'vgg19': 'E'}
# The small nets also see what a last map of 3x3 pixels becomes in 7x7 bins; of 32 pixels 1 is left.
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

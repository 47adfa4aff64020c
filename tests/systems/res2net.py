"""Test data for Res2Net: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

IMAGENET = (
    *(f'res2net50_{scales}' for scales in ('48w_2s', '26w_4s', '14w_8s', '26w_6s', '26w_8s')),
    'res2net101_26w_4s',
    'res2next50',
    'dla60_res2net',
    'dla60_res2next',
)
SMALL = {'stage_sizes': (2, 1, 1), 'widths': (32, 64, 128), 'num_classes': 20}
TASKS = (
    *(Task(f'timm:{name}') for name in (*IMAGENET, 'res2net50d', 'res2net101d')),
    *(
        Task(f'restated:res2next29_{name}_cifar', size=32, fields=SMALL)
        for name in ('6c_24w_4s', '8c_25w_4s', '6c_24w_6s')
    ),
)
DEFAULT = ('res2next50', 'dla60_res2next', 'res2next29_8c_25w_4s_cifar')
CSV = ('Res2Net',)
LISTED = {name: name for name in IMAGENET}
UNLISTED = {}

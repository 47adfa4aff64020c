"""Test data for SENet: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

RESIDUAL = (
    'seresnet50',
    'seresnet101',
    'seresnet152',
    'seresnext50_32x4d',
    'seresnext101_32x4d',
    'senet154',
)
TASKS = (
    *(Task(f'timm:legacy_{name}') for name in RESIDUAL),
    # Logits of smaller images differ too little, or chaotically.
    Task('restated:se_bn_inception', size=160),
)
DEFAULT = ('seresnet50', 'seresnext50_32x4d', 'se_bn_inception')
CSV = ('SENet',)
LISTED = {name: name for name in (*RESIDUAL, 'se_bn_inception')}
UNLISTED = {}

"""Test data for MobileNetV3: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TIMM = ('mobilenetv3_large_075', 'mobilenetv3_small_075', 'mobilenetv3_small_050')
MINIMAL = ('mobilenetv3_large_minimal_100', 'mobilenetv3_small_minimal_100')
TENSORFLOW = tuple(
    f'tf_mobilenetv3_{size}_{width}' for size in ('large', 'small') for width in ('100', '075')
)
SCALES = ('w7d20', 'wd2', 'w3d4', 'w5d4')
PYTORCHCV = tuple(f'{size}_{scale}' for size in ('large', 'small') for scale in SCALES)
PYTORCHCV += ('small_w1',)
TASKS = (
    *(Task(f'torchvision:mobilenet_v3_{size}') for size in ('large', 'small')),
    *(Task(f'timm:{name}') for name in TIMM),
    *(Task(f'timm:tf_{name}') for name in MINIMAL),
    *(Task(f'timm:{name}', 72) for name in TENSORFLOW),
    Task('timm:mobilenetv3_large_150d'),
    *(Task(f'pytorchcv:mobilenetv3_{name}') for name in PYTORCHCV),
)
DEFAULT = ('mobilenetv3_small_100', 'mobilenetv3_small_minimal_100')
DEFAULT += ('tf_mobilenetv3_small_075',)
DEFAULT += ('mobilenetv3_small_w7d20',)
CSV = ('MobileNetV3',)
LISTED = {
    'mobilenetv3_large_100': 'mobilenetv3_large_1.0',
    'mobilenetv3_small_100': 'mobilenetv3_small_1.0',
    'mobilenetv3_large_075': 'mobilenetv3_large_0.75',
    'mobilenetv3_small_075': 'mobilenetv3_small_0.75',
    'mobilenetv3_small_050': 'mobilenetv3_small_0.5',
    'mobilenetv3_large_minimal_100': 'mobilenetv3_large_minimal',
    'mobilenetv3_small_minimal_100': 'mobilenetv3_small_minimal',
}
UNLISTED = {}

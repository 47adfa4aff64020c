"""Test data for MobileNetV2: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TIMM = {'mobilenetv2_140': 1.4, 'mobilenetv2_075': 0.75, 'mobilenetv2_050': 0.5}
TIMM |= {'mobilenetv2_035': 0.35}
PYTORCHCV = tuple(f'mobilenetv2{form}_{w}' for form in ('', 'b') for w in ('w3d4', 'wd2', 'wd4'))
PYTORCHCV += ('mobilenetv2_w1',)
TASKS = (
    Task('torchvision:mobilenet_v2'),
    *(Task(f'timm:{name}') for name in (*TIMM, 'mobilenetv2_110d', 'mobilenetv2_120d')),
    Task('restated:mobilenetv2_100_tf'),
    *(Task(f'pytorchcv:{name}') for name in PYTORCHCV),
)
DEFAULT = ('mobilenetv2_100', 'mobilenetv2_wd4', 'mobilenetv2b_wd4')
CSV = ('MobileNetV2',)
LISTED = {
    'mobilenetv2_100': 'mobilenetv2_1.0',
    **{name: f'mobilenetv2_{width}' for name, width in TIMM.items()},
}
UNLISTED = {}

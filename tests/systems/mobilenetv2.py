"""Test data for MobileNetV2: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TIMM = {'mobilenetv2_140': 1.4, 'mobilenetv2_075': 0.75, 'mobilenetv2_050': 0.5}
TIMM |= {'mobilenetv2_035': 0.35}
TASKS = (
    Task('torchvision:mobilenet_v2'),
    *(Task(f'timm:{name}') for name in (*TIMM, 'mobilenetv2_110d', 'mobilenetv2_120d')),
    Task('restated:mobilenetv2_100_tf'),
)
DEFAULT = ('mobilenetv2_100',)
CSV = ('MobileNetV2',)
LISTED = {
    'mobilenetv2_100': 'mobilenetv2_1.0',
    **{name: f'mobilenetv2_{width}' for name, width in TIMM.items()},
}
UNLISTED = {}

"""Test data for ShuffleNetV2: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

SCALES = ('0.5x', '1.0x', '1.5x', '2.0x')
PYTORCHCV = ('_w3d2', '_w2', 'b_w1', 'b_w3d2', 'b_w2')
TASKS = (
    *(Task(f'torchvision:shufflenet_v2_x{s[:-1].replace(".", "_")}') for s in SCALES),
    *(Task(f'pytorchcv:shufflenetv2{name}') for name in PYTORCHCV),
    *(Task(f'restated:shufflenetv2_{s}_released') for s in SCALES[1:]),
    Task('restated:shufflenetv2_50'),
    Task('restated:shufflenetv2_se_164', fields={'stage_sizes': (2, 2, 3, 2)}),
)
DEFAULT = ('shufflenetv2_0.5x', 'shufflenetv2_se_164', 'shufflenetv2_w3d2', 'shufflenetv2b_w1')
CSV = ('ShuffleNetV2',)
LISTED = {
    **{f'shufflenetv2_{scale}': f'shufflenetv2_{scale}' for scale in SCALES},
    'shufflenetv2_50': 'shufflenetv2_50',
    'shufflenetv2_se_164': 'se_shufflenetv2_164',
}
UNLISTED = {}

"""An independent reimplementation of ShuffleNet 2x with squeeze and excitation.

From figure 2 and Tables 1 and 5 of the paper. The squeeze is to a sixteenth of the channels: of the
residual in units with a sum, of the output in units that concatenate (see cls/models/
shufflenet.py). Names are pytorchcv's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def shufflenet_se() -> Net:
    groups = 3

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        def conv(name: str, x: torch.Tensor, out: int, window: int, groups: int, stride: int = 1):
            kernel = weight(f'{name}.weight', out, x.shape[1] // groups, window, window)
            return F.conv2d(x, kernel, stride=stride, padding=window // 2, groups=groups)

        def gate(name: str, x: torch.Tensor) -> torch.Tensor:
            channels, s = x.shape[1], x.mean((2, 3), keepdim=True)
            for layer, out in (('fc1', channels // 16), ('fc2', channels)):
                s = conv(f'{name}.{layer}', s, out, 1, 1)
                s = s + weight(f'{name}.{layer}.bias', out)[:, None, None]
                s = s.relu() if layer == 'fc1' else s.sigmoid()
            return x * s

        x = conv('features.init_block.conv', x, 48, 3, 1, 2)
        x = F.max_pool2d(norm(weight, 'features.init_block.bn', x).relu(), 3, 2, 1)
        for stage, (units, width) in enumerate(((4, 480), (8, 960), (4, 1920)), 1):
            for unit in range(1, units + 1):
                name, stride = f'features.stage{stage}.unit{unit}', 2 if unit == 1 else 1
                first = 1 if (stage, unit) == (1, 1) else groups
                y = conv(f'{name}.compress_conv1', x, width // 4, 1, first)
                y = norm(weight, f'{name}.compress_bn1', y).relu()
                size = width // 4 // groups  # new neighbors are the i-th channels of each group
                order = [group * size + i for i in range(size) for group in range(groups)]
                y = y[:, order]
                y = conv(f'{name}.dw_conv2', y, width // 4, 3, width // 4, stride)
                y = norm(weight, f'{name}.dw_bn2', y)
                out = width - x.shape[1] if stride == 2 else width
                y = conv(f'{name}.expand_conv3', y, out, 1, groups)
                y = norm(weight, f'{name}.expand_bn3', y)
                if stride == 2:
                    x = gate(f'{name}.se', torch.cat((y, F.avg_pool2d(x, 3, 2, 1)), 1)).relu()
                else:
                    x = (gate(f'{name}.se', y) + x).relu()
        kernel = weight('output.weight', 1000, x.shape[1])
        return F.linear(x.mean((2, 3)), kernel, weight('output.bias', 1000))

    return declared(forward)


NETS: dict[str, Callable[..., Net]] = {'shufflenet_g3_2x_se': shufflenet_se}

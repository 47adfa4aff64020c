"""An independent reimplementation of MobileNetV2: Table 2 (1801.04381) with slim's conventions.

Those (tensorflow/models, research/slim, mobilenet) are 'SAME' padding and an epsilon of 1e-3.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm

# t, c, n, s: expansion, channels, repeats, stride of the first block.
TABLE_2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def same(x: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """Pads as TensorFlow does: for ceil(n / stride) output pixels, an odd zero at the end."""
    pads = []
    for n in (x.shape[3], x.shape[2]):
        total = max((-(-n // stride) - 1) * stride + window - n, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def mobilenetv2_tf() -> Net:
    """Returns the network of width 1 with 1000 classes."""

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        def unit(x, conv: str, bn: str, width: int, window=1, stride=1, groups=1):
            kernel = weight(f'{conv}.weight', width, x.shape[1] // groups, window, window)
            x = F.conv2d(same(x, window, stride), kernel, stride=stride, groups=groups)
            return norm(weight, bn, x, eps=1e-3)

        x = unit(x, 'conv_stem', 'bn1', 32, window=3, stride=2).clamp(0, 6)
        for stage, (t, c, n, s) in enumerate(TABLE_2):
            for i in range(n):
                y, name, wide = x, f'blocks.{stage}.{i}', t * x.shape[1]
                if t > 1:
                    y = unit(y, f'{name}.conv_pw', f'{name}.bn1', wide).clamp(0, 6)
                stride = s if i == 0 else 1
                y = unit(y, f'{name}.conv_dw', f'{name}.bn2', wide, 3, stride, groups=wide)
                y = unit(y.clamp(0, 6), f'{name}.conv_pwl', f'{name}.bn3', c)
                x = x + y if i > 0 else y
        x = unit(x, 'conv_head', 'bn2', 1280).clamp(0, 6).mean((2, 3))
        return F.linear(x, weight('classifier.weight', 1000, 1280), weight('classifier.bias', 1000))

    return declared(forward)


NETS: dict[str, Callable[..., Net]] = {'mobilenetv2_100_tf': mobilenetv2_tf}

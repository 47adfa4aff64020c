"""An independent reimplementation of SqueezeNet v1.0 with complex bypass.

From 1602.07360, figure 2 (right) and section 6. Fire modules 3, 5, 7 and 9 have an identity as
bypass, 2, 4, 6 and 8 a 1x1 convolution. Layer 1 is not padded and pooling rounds up, as in the
authors' Caffe files. Names are torchvision's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared

# Number in torchvision's list, squeeze filters, expand filters of each kind, convolution as bypass.
FIRES = {
    2: (3, 16, 64, True),
    3: (4, 16, 64, False),
    4: (5, 32, 128, True),
    5: (7, 32, 128, False),
    6: (8, 48, 192, True),
    7: (9, 48, 192, False),
    8: (10, 64, 256, True),
    9: (12, 64, 256, False),
}


def squeezenet_complex() -> Net:
    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        def conv(name: str, x: torch.Tensor, width: int, window: int, **how: int) -> torch.Tensor:
            kernel = weight(f'{name}.weight', width, x.shape[1], window, window)
            return F.conv2d(x, kernel, weight(f'{name}.bias', width), **how)

        x = conv('features.0', x, 96, 7, stride=2).relu()
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for fire, (number, squeeze, expand, convolved) in FIRES.items():
            name = f'features.{number}'
            s = conv(f'{name}.squeeze', x, squeeze, 1).relu()
            e1 = conv(f'{name}.expand1x1', s, expand, 1).relu()
            e3 = conv(f'{name}.expand3x3', s, expand, 3, padding=1).relu()
            beside = conv(f'{name}.bypass', x, 2 * expand, 1) if convolved else x
            x = torch.cat((e1, e3), 1) + beside
            if fire in (4, 8):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return conv('classifier.1', x, 1000, 1).relu().mean((2, 3))

    return declared(forward)


NETS: dict[str, Callable[..., Net]] = {'squeezenet1_0_complex': squeezenet_complex}

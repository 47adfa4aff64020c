"""An independent reimplementation of MobileNet in TensorFlow's form, from Table 1 and slim's file.

Convolutions with stride 2 pad an even size by one pixel, at the end; rectifiers are ReLU6. Names
are those of Keras.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm

# Output channels and stride of each block.
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)


def same(x: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """Pads for ceil(n / stride) output pixels, an odd zero at the end."""
    around = []
    for size in (x.shape[3], x.shape[2]):  # F.pad begins with the last axis
        total = max((-(-size // stride) - 1) * stride + window - size, 0)
        around += [total // 2, total - total // 2]
    return F.pad(x, around)


def mobilenet_tf(width: float) -> Net:
    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        def layer(name: str, x: torch.Tensor, channels: int, window: int, stride: int, groups: int):
            kernel = weight(f'{name}.weight', channels, x.shape[1] // groups, window, window)
            x = F.conv2d(same(x, window, stride), kernel, stride=stride, groups=groups)
            return norm(weight, f'{name}_bn', x, eps=1e-3).clamp(0, 6)

        x = layer('conv1', x, int(32 * width), 3, 2, 1)
        for number, (channels, stride) in enumerate(BLOCKS, 1):
            x = layer(f'conv_dw_{number}', x, x.shape[1], 3, stride, x.shape[1])
            x = layer(f'conv_pw_{number}', x, int(channels * width), 1, 1, 1)
        x = x.mean((2, 3))
        kernel = weight('conv_preds.weight', 1000, x.shape[1])
        return F.linear(x, kernel, weight('conv_preds.bias', 1000))

    return declared(forward)


NETS: dict[str, Callable[..., Net]] = {
    f'mobilenet_{percent}_tf': functools.partial(mobilenet_tf, int(percent) / 100)
    for percent in ('100', '075', '050', '025')
}

"""An independent reimplementation of SE-BN-Inception, otherwise available only for Caffe."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm

# Outputs of: 1x1 | 1x1, 3x3 | 1x1, 3x3, 3x3 | pooling's 1x1.
WIDTHS = {
    '3a': '64 | 64 64 | 64 96 96 | 32',
    '3b': '64 | 64 96 | 64 96 96 | 64',
    '3c': '- | 128 160 | 64 96 96 | -',
    '4a': '224 | 64 96 | 96 128 128 | 128',
    '4b': '192 | 96 128 | 96 128 128 | 128',
    '4c': '160 | 128 160 | 128 160 160 | 128',
    '4d': '96 | 128 192 | 160 192 192 | 128',
    '4e': '- | 128 192 | 192 256 256 | -',
    '5a': '352 | 192 320 | 160 224 224 | 128',
    '5b': '352 | 192 320 | 192 224 224 | 128',
}


def se_bn_inception() -> Net:
    """Returns SE-BN-Inception (1709.01507), by the authors' SE-BN-Inception.prototxt.

    Caffe's pooling rounds sizes up. Average pooling has one pixel of padding, and includes it; the
    last module and those with stride 2 have max pooling. Gates have channels / 16.
    """

    def unit(
        weight: Weight, name: str, x: torch.Tensor, outputs: str, window: int, stride: int = 1
    ):
        kernel = weight(f'{name}.conv.weight', int(outputs), x.shape[1], window, window)
        x = F.conv2d(x, kernel, stride=stride, padding=window // 2)
        return norm(weight, f'{name}.bn', x).relu()

    def excite(weight: Weight, name: str, x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        s = x.mean((2, 3))
        for part, outputs in (('1x1_down', channels // 16), ('1x1_up', channels)):
            kernel = weight(f'{name}.{part}.weight', outputs, s.shape[1], 1, 1)[:, :, 0, 0]
            s = F.linear(s, kernel, weight(f'{name}.{part}.bias', outputs))
            s = s.relu() if part == '1x1_down' else s.sigmoid()
        return x * s[:, :, None, None]

    def module(weight: Weight, which: str, x: torch.Tensor) -> torch.Tensor:
        name, widths = f'inception_{which}', [part.split() for part in WIDTHS[which].split('|')]
        stride = 2 if widths[0] == ['-'] else 1
        y = unit(weight, f'{name}.3x3_reduce', x, widths[1][0], 1)
        y = unit(weight, f'{name}.3x3', y, widths[1][1], 3, stride)
        z = unit(weight, f'{name}.double3x3_reduce', x, widths[2][0], 1)
        z = unit(weight, f'{name}.double3x3a', z, widths[2][1], 3)
        z = unit(weight, f'{name}.double3x3b', z, widths[2][2], 3, stride)
        if stride == 2:
            parts = [y, z, F.max_pool2d(x, 3, 2, ceil_mode=True)]
        else:
            pool = F.max_pool2d if which == '5b' else F.avg_pool2d
            pooled = pool(x, 3, 1, 1)
            first = unit(weight, f'{name}.1x1', x, widths[0][0], 1)
            parts = [first, y, z, unit(weight, f'{name}.pool_proj', pooled, widths[3][0], 1)]
        return excite(weight, f'{name}.se', torch.cat(parts, 1))

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        x = unit(weight, 'conv1', x, '64', 7, 2)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = unit(weight, 'conv2_reduce', x, '64', 1)
        x = unit(weight, 'conv2', x, '192', 3)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for which in WIDTHS:
            x = module(weight, which, x)
        kernel = weight('classifier.weight', 1000, 1024)
        return F.linear(x.mean((2, 3)), kernel, weight('classifier.bias', 1000))

    return declared(forward, size=64)


NETS: dict[str, Callable[..., Net]] = {'se_bn_inception': se_bn_inception}

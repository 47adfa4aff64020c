"""An independent reimplementation of Res2NeXt for CIFAR; no installable package has it."""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def res2next(
    cardinality: int,
    width: int,
    scale: int,
    stage_sizes: Sequence[int] = (3, 3, 3),
    widths: Sequence[int] = (64, 128, 256),
    num_classes: int = 100,
) -> Net:
    """Returns Res2NeXt-29 (1904.01169, section 4.3), with figure 2's groups in the authors' order.

    The 1x1 convolution of a block has `scale` times `cardinality` times `width` channels in the
    first stage. They are split into `scale` groups. Each group but the last is convolved, after the
    sum with the result of the previous group; the last is kept. In the first block of a stage there
    are no sums, and 3x3 average pooling reduces the last group.
    """

    def conv(weight: Weight, name: str, x: torch.Tensor, out: int, size: int, **how):
        kernel = weight(f'{name}.weight', out, x.shape[1] // how.get('groups', 1), size, size)
        return F.conv2d(x, kernel, padding=size // 2, **how)

    def block(weight: Weight, name: str, x: torch.Tensor, planes: int, stride: int, first: bool):
        piece = planes * width // 64 * cardinality
        y = conv(weight, f'{name}.conv1', x, piece * scale, 1)
        y = norm(weight, f'{name}.bn1', y).relu()
        done = []
        for i in range(scale - 1):
            z = y[:, i * piece : (i + 1) * piece]
            if done and not first:
                z = z + done[-1]
            how = {'stride': stride, 'groups': cardinality}
            z = conv(weight, f'{name}.convs.{i}', z, piece, 3, **how)
            done.append(norm(weight, f'{name}.bns.{i}', z).relu())
        rest = y[:, (scale - 1) * piece :]
        done.append(F.avg_pool2d(F.pad(rest, (1, 1, 1, 1)), 3, stride) if first else rest)
        y = conv(weight, f'{name}.conv3', torch.cat(done, 1), 4 * planes, 1)
        y = norm(weight, f'{name}.bn3', y)
        if first:
            x = conv(weight, f'{name}.downsample.0', x, 4 * planes, 1, stride=stride)
            x = norm(weight, f'{name}.downsample.1', x)
        return (x + y).relu()

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        x = norm(weight, 'bn1', conv(weight, 'conv1', x, widths[0], 3)).relu()
        for stage, (size, planes) in enumerate(zip(stage_sizes, widths, strict=True), 1):
            for i in range(size):
                stride = 2 if stage > 1 and i == 0 else 1
                x = block(weight, f'layer{stage}.{i}', x, planes, stride, i == 0)
        x = x.mean((2, 3))
        kernel = weight('fc.weight', num_classes, x.shape[1])
        return F.linear(x, kernel, weight('fc.bias', num_classes))

    return declared(forward, size=32)


NETS: dict[str, Callable[..., Net]] = {
    f'res2next29_{c}c_{w}w_{s}s_cifar': functools.partial(res2next, c, w, s)
    for c, w, s in ((6, 24, 4), (8, 25, 4), (6, 24, 6))
}

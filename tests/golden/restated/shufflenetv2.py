"""An independent reimplementation of ShuffleNet V2's two large networks, from the paper's appendix.

That is its Table 2 and figure 2 (c). Names are torchvision's, which has the small networks. The
networks that the authors released later have another first branch and no shuffle.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def large(
    stem: Sequence[int], widths: Sequence[int], excited: bool, stage_sizes: Sequence[int]
) -> Net:
    """Returns a large network; `excited` adds squeeze and excitation, and a sum, to each unit."""

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        def conv(name: str, x: torch.Tensor, out: int, window: int, stride: int = 1):
            kernel = weight(f'{name}.weight', out, x.shape[1], window, window)
            return F.conv2d(x, kernel, stride=stride, padding=window // 2)

        def depthwise(name: str, x: torch.Tensor, stride: int):
            kernel = weight(f'{name}.weight', x.shape[1], 1, 3, 3)
            return F.conv2d(x, kernel, stride=stride, padding=1, groups=x.shape[1])

        def gates(name: str, x: torch.Tensor, hidden: int) -> torch.Tensor:
            s = conv(f'{name}.fc1', x.mean((2, 3), keepdim=True), hidden, 1)
            s = (s + weight(f'{name}.fc1.bias', hidden)[:, None, None]).relu()
            s = conv(f'{name}.fc2', s, x.shape[1], 1)
            return (s + weight(f'{name}.fc2.bias', x.shape[1])[:, None, None]).sigmoid()

        def unit(name: str, x: torch.Tensor, width: int, stride: int) -> torch.Tensor:
            half = width // 2
            if x.shape[1] == width and stride == 1:
                left, right = x[:, :half], x[:, half:]
                beside = right
            else:
                left = norm(weight, f'{name}.branch1.1', depthwise(f'{name}.branch1.0', x, stride))
                left = conv(f'{name}.branch1.2', left, half, 1)
                left = norm(weight, f'{name}.branch1.3', left).relu()
                right, beside = x, 0
            y = conv(f'{name}.branch2.0', right, half, 1)
            y = norm(weight, f'{name}.branch2.1', y).relu()
            y = norm(weight, f'{name}.branch2.4', depthwise(f'{name}.branch2.3', y, stride))
            y = norm(weight, f'{name}.branch2.6', conv(f'{name}.branch2.5', y, half, 1))
            if excited:
                y = y * gates(f'{name}.se', y, half // 2) + beside
            # Shuffled: the channels of both halves alternate.
            return torch.stack((left, y.relu()), 2).flatten(1, 2)

        for i, out in enumerate(stem):
            x = conv(f'conv1.{3 * i}', x, out, 3, 2 if i == 0 else 1)
            x = norm(weight, f'conv1.{3 * i + 1}', x).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        for stage, (units, width) in enumerate(zip(stage_sizes, widths, strict=True), 2):
            for i in range(units):
                x = unit(f'stage{stage}.{i}', x, width, 2 if stage > 2 and i == 0 else 1)
        x = norm(weight, 'conv6.1', conv('conv6.0', x, 2048, 1)).relu().mean((2, 3))
        return F.linear(x, weight('fc.weight', 1000, 2048), weight('fc.bias', 1000))

    return declared(forward)


def v2_50(stage_sizes: Sequence[int] = (3, 4, 6, 3)) -> Net:
    return large((64,), (244, 488, 976, 1952), False, stage_sizes)


def se_164(stage_sizes: Sequence[int] = (10, 10, 23, 10)) -> Net:
    return large((64, 64, 128), (340, 680, 1360, 2720), True, stage_sizes)


def released(widths: Sequence[int], last: int, stage_sizes: Sequence[int] = (4, 8, 4)) -> Net:
    """Returns a network of megvii-model/ShuffleNet-Series."""

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        def layer(name: str, number: int, x: torch.Tensor, out: int, stride=1, groups=1, window=1):
            kernel = weight(f'{name}{number}.weight', out, x.shape[1] // groups, window, window)
            x = F.conv2d(x, kernel, None, stride, window // 2, 1, groups)
            return norm(weight, f'{name}{number + 1}', x)

        def unit(name: str, x: torch.Tensor, width: int, stride: int) -> torch.Tensor:
            half, one, two = width // 2, f'{name}.branch1.', f'{name}.branch2.'
            if stride == 1:
                kept, x = x[:, 0::2], x[:, 1::2]
            else:
                kept = layer(one, 0, x, x.shape[1], 2, x.shape[1], 3)
                kept = layer(one, 2, kept, x.shape[1]).relu()
            x = layer(two, 0, x, half).relu()
            x = layer(two, 3, x, half, stride, half, 3)
            return torch.cat((kept, layer(two, 5, x, width - kept.shape[1]).relu()), 1)

        x = F.max_pool2d(layer('conv1.', 0, x, 24, 2, window=3).relu(), 3, 2, 1)
        for stage, (units, width) in enumerate(zip(stage_sizes, widths, strict=True), 2):
            for i in range(units):
                x = unit(f'stage{stage}.{i}', x, width, 2 if i == 0 else 1)
        x = layer('conv5.', 0, x, last).relu().mean((2, 3))
        return F.linear(x, weight('fc.weight', 1000, last), weight('fc.bias', 1000))

    return declared(forward)


NETS: dict[str, Callable[..., Net]] = {
    'shufflenetv2_50': v2_50,
    'shufflenetv2_se_164': se_164,
    'shufflenetv2_1.0x_released': lambda: released((116, 232, 464), 1024),
    'shufflenetv2_1.5x_released': lambda: released((176, 352, 704), 1024),
    'shufflenetv2_2.0x_released': lambda: released((244, 488, 976), 2048),
}

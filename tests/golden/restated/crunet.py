"""An independent reimplementation of CRU-Net; the only package that has it needs MXNet."""

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm

EPS = 1e-3


def crunet(
    block_sizes: tuple[int, ...],
    collective: tuple[int, ...],
    width: int = 256,
    inner: int = 128,
    groups: int = 32,
) -> Net:
    """Returns CRU-Net (1703.02180, figure 3 and Table 1).

    7x7 convolution, pooling, four stages. A stage with a rank in `collective` has units
    x + C(B(depthwise(A(x)))); six consecutive units share A and the depthwise kernel. Other stages
    have pre-activation ResNeXt units, depthwise if `groups` is 0. One kernel projects the input of
    the first unit of a collective stage twice: with stride for the shortcut, without for the rest.
    """

    def act(weight: Weight, name: str, x: torch.Tensor) -> torch.Tensor:
        return norm(weight, name, x, EPS).relu()

    def pre(
        weight: Weight, name: str, x: torch.Tensor, out: int, k: int = 1, **how
    ) -> torch.Tensor:
        x = act(weight, f'{name}.bn', x)
        kernel = weight(f'{name}.conv.weight', out, x.shape[1] // how.get('groups', 1), k, k)
        return F.conv2d(x, kernel, padding=k // 2, **how)

    def resnext(weight: Weight, name: str, x: torch.Tensor, out: int, mid: int, stride: int):
        same = x.shape[1] == out
        side = x if same else pre(weight, f'{name}.shortcut', x, out, stride=stride)
        y = pre(weight, f'{name}.conv1', x, mid)
        y = pre(weight, f'{name}.conv2', y, mid, 3, stride=stride, groups=groups or mid)
        return side + pre(weight, f'{name}.conv3', y, out)

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, weight('conv1.conv.weight', 64, 3, 7, 7), stride=2, padding=3)
        x = F.max_pool2d(act(weight, 'conv1.bn', x), 3, 2, padding=1)
        for stage, (size, rank) in enumerate(zip(block_sizes, collective, strict=True)):
            out, mid = width << stage, inner << stage
            for index in range(size):
                name = f'conv{stage + 2}_{index + 1}'
                stride = 2 if stage > 0 and index == 0 else 1
                if rank == 0:
                    x = resnext(weight, name, x, out, mid, stride)
                    continue
                if index % 6 == 0:
                    first = weight(f'{name}_reduce.weight', rank, out, 1, 1)
                    second = weight(f'{name}_spatial.weight', rank, 1, 3, 3)
                side = x
                if index == 0:
                    kernel = weight(f'{name}.project.weight', out, x.shape[1], 1, 1)
                    side = F.conv2d(act(weight, f'{name}.bn_shortcut', x), kernel, stride=stride)
                    x = F.conv2d(act(weight, f'{name}.bn_project', x), kernel)
                y = F.conv2d(act(weight, f'{name}.bn', x), first)
                y = F.conv2d(y, second, stride=stride, padding=1, groups=rank)
                y = pre(weight, f'{name}.conv3', y, rank)
                x = side + pre(weight, f'{name}.conv4', y, out)
        x = act(weight, 'bn', x).mean((2, 3))
        return F.linear(x, weight('fc.weight', 1000, x.shape[1]), weight('fc.bias', 1000))

    return declared(forward)


def crunet56(block_sizes=(3, 4, 6, 3), collective=(0, 0, 640, 0), **small) -> Net:
    return crunet(block_sizes, collective, **small)


def crunet56_136x1d(inner=136, groups=0, **small) -> Net:
    return crunet56(inner=inner, groups=groups, **small)


def crunet116(block_sizes=(3, 6, 18, 3), collective=(0, 352, 704, 0), **small) -> Net:
    return crunet(block_sizes, collective, **small)


NETS = {
    'crunet56': crunet56,
    'crunet56_136x1d': crunet56_136x1d,
    'crunet116': crunet116,
}

"""An independent reimplementation of CondenseNet, from 1711.09224 and the authors' code.

That is github.com/ShichenLiu/CondenseNet. Tensors have pytorchcv's names for the converted ImageNet
networks.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def condensenet(
    stage_sizes: tuple[int, ...],
    growths: tuple[int, ...],
    g: int,
    learned: bool,
    classes: int = 10,
    stride: int = 1,
) -> Net:
    """Returns either form of the network; C = G = `g`.

    Learned (layers.py, LearnedGroupConv): an ordinary 1x1 convolution with a mask on its weights;
    filters i, i + g, i + 2g, ... belong to group i. The mask is (inputs, groups) here, as it is the
    same for all weights of a group and an input.
    Converted (CondenseConv): channels selected by an index are normalized, rectified, convolved in
    groups, and the groups of the result interleaved.
    """

    def first(weight: Weight, name: str, x: torch.Tensor, filters: int) -> torch.Tensor:
        inputs = x.shape[1]
        if learned:
            kernel = weight(f'{name}.conv.weight', filters, inputs, 1, 1)
            mask = weight(f'{name}.conv.mask', inputs, g)
            kernel = torch.stack([kernel[i] * mask[:, i % g, None, None] for i in range(filters)])
            return F.conv2d(norm(weight, f'{name}.bn', x).relu(), kernel)
        x = x[:, weight(f'{name}.index', inputs).long()]
        kernel = weight(f'{name}.conv.weight', filters, inputs // g, 1, 1)
        x = F.conv2d(norm(weight, f'{name}.bn', x).relu(), kernel, groups=g)
        parts = x.split(filters // g, dim=1)
        return torch.stack([part[:, i] for i in range(filters // g) for part in parts], dim=1)

    def classifier(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        inputs = x.shape[1]
        if learned:
            matrix = weight('output.weight', classes, inputs)
            matrix = matrix * weight('output.mask', inputs, 1)[:, 0]
            return F.linear(x, matrix, weight('output.bias', classes))
        x = x[:, weight('output.index', inputs // 2).long()]
        matrix = weight('output.linear.weight', classes, inputs // 2)
        return F.linear(x, matrix, weight('output.linear.bias', classes))

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        kernel = weight('features.init_block.conv.weight', 2 * growths[0], 3, 3, 3)
        x = F.conv2d(x, kernel, padding=1, stride=stride)
        for stage, (size, k) in enumerate(zip(stage_sizes, growths, strict=True), 1):
            if stage > 1:
                x = F.avg_pool2d(x, 2)
            for unit in range(1, size + 1):
                name = f'features.stage{stage}.unit{unit}'
                y = first(weight, f'{name}.conv1', x, 4 * k)
                y = norm(weight, f'{name}.conv2.bn', y).relu()
                kernel = weight(f'{name}.conv2.conv.weight', k, 4 * k // g, 3, 3)
                x = torch.cat([x, F.conv2d(y, kernel, padding=1, groups=g)], 1)
        x = norm(weight, 'features.post_activ.bn', x).relu().mean((2, 3))
        return classifier(weight, x)

    return declared(forward, size=64)


CIFAR = (8, 16, 32)
DEPTHS = {50: 8, 74: 12, 86: 14, 98: 16, 110: 18, 122: 20}
SIZES = {f'condensenet{depth}_cifar': ((n,) * 3, CIFAR, 4) for depth, n in DEPTHS.items()}
SIZES['condensenet182_cifar'] = ((30,) * 3, (12, 24, 48), 4)
IMAGENET = {
    f'condensenet74_c{g}_g{g}_learned': ((4, 6, 8, 10, 8), (8, 16, 32, 64, 128), g) for g in (4, 8)
}


def net(sizes: tuple[int, ...], growths: tuple[int, ...], g: int, **form) -> Callable[..., Net]:
    def build(stage_sizes: tuple[int, ...] = sizes) -> Net:
        return condensenet(stage_sizes, growths, g, **form)

    return build


NETS: dict[str, Callable[..., Net]] = {
    **{name: net(*sizes, learned=False) for name, sizes in SIZES.items()},
    **{f'{name}_learned': net(*sizes, learned=True) for name, sizes in SIZES.items()},
    **{name: net(*sizes, learned=True, classes=1000, stride=2) for name, sizes in IMAGENET.items()},
}

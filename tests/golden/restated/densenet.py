"""An independent reimplementation of the plain CIFAR DenseNet (without compression)."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def densenet_cifar(depth: int, growth: int, block_sizes: tuple[int, ...] | None = None) -> Net:
    """Returns DenseNet without bottlenecks and compression (1608.06993, section 3).

    A 3x3 convolution to 16 channels; three blocks of (depth - 4) / 3 layers, each a 3x3 convolution
    of the input of the block and all previous outputs; between blocks a 1x1 convolution that keeps
    the number of channels, and 2x2 average pooling. Batch normalization and a rectifier precede
    every convolution but the first.
    """
    sizes = block_sizes or ((depth - 4) // 3,) * 3

    def step(weight: Weight, name: str, x: torch.Tensor, features: int, k: int) -> torch.Tensor:
        kernel = weight(f'{name}.conv.weight', features, x.shape[1], k, k)
        return F.conv2d(norm(weight, f'{name}.bn', x).relu(), kernel, padding=k // 2)

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        seen = [F.conv2d(x, weight('features.init_block.weight', 16, 3, 3, 3), padding=1)]
        for stage, size in enumerate(sizes, 1):
            name = f'features.stage{stage}'
            if stage > 1:
                x = torch.cat(seen, 1)
                x = step(weight, f'{name}.trans{stage}.conv', x, x.shape[1], 1)
                seen = [F.avg_pool2d(x, 2)]
            for unit in range(1, size + 1):
                x = torch.cat(seen, 1)
                seen.append(step(weight, f'{name}.unit{unit}.conv2', x, growth, 3))
        x = norm(weight, 'features.post_activ.bn', torch.cat(seen, 1)).relu().mean((2, 3))
        return F.linear(x, weight('output.weight', 10, x.shape[1]), weight('output.bias', 10))

    return declared(forward, size=32)


NETS: dict[str, Callable[..., Net]] = {
    f'densenet{depth}_k{growth}_cifar': functools.partial(densenet_cifar, depth, growth)
    for depth, growth in ((40, 12), (100, 12), (100, 24))
}

"""An independent reimplementation of FractalNet, by the recursion of the paper's section 3."""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def fractalnet(
    columns: int, widths: Sequence[int], num_classes: int = 10, imagenet: bool = False
) -> Net:
    """Returns FractalNet (1605.07648), pooled before the last join of a block (authors' generator).

    Tensors have pytorchcv's names: the convolution that ends after n of a block's 2^(C-1) steps is
    in block<n>, as subblock1 if it takes one step, subblock2 if two, 3 if four, 4 if eight.
    """

    def convolution(weight: Weight, block: str, end: int, scale: int, width: int, x):
        name = f'{block}.block{end}.subblock{scale}'
        kernel = weight(f'{name}.conv.weight', width, x.shape[1], 3, 3)
        return norm(weight, f'{name}.bn', F.conv2d(x, kernel, padding=1)).relu()

    def paths(weight: Weight, block: str, start: int, scale: int, width: int, x) -> list:
        """Returns the inputs of the join at the end of an f_scale that begins after `start` steps.

        Joins of inner f at the same step merge with its own join into one flat list.
        """
        steps = 2 ** (scale - 1)
        own = convolution(weight, block, start + steps, scale, width, x)
        if scale == 1:
            return [own]
        halfway = torch.stack(paths(weight, block, start, scale - 1, width, x)).mean(0)
        return [own, *paths(weight, block, start + steps // 2, scale - 1, width, halfway)]

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        if imagenet:
            x = F.conv2d(x, weight('conv1.weight', 64, 3, 7, 7), stride=2, padding=3)
            x = F.max_pool2d(norm(weight, 'bn1', x).relu(), 3, 2, 1)
        for i, width in enumerate(widths, 1):
            ends = paths(weight, f'features.unit{i}.block.blocks', 0, columns, width, x)
            if not imagenet or i < len(widths):
                ends = [F.max_pool2d(x, 2) for x in ends]
            x = torch.stack(ends).mean(0)
        kernel = weight('output.weight', num_classes, x.shape[1])
        return F.linear(x.mean((2, 3)), kernel, weight('output.bias', num_classes))

    return declared(forward)


WIDTHS = (64, 128, 256, 512, 512)
NETS: dict[str, Callable[..., Net]] = {
    # Fields may replace the widths.
    'fractalnet20_c3_cifar': functools.partial(fractalnet, 3, widths=WIDTHS),
    'fractalnet20_c3_cifar100': functools.partial(fractalnet, 3, widths=WIDTHS, num_classes=100),
    'fractalnet40_c4_cifar': functools.partial(fractalnet, 4, widths=WIDTHS),
    'fractalnet34': functools.partial(
        fractalnet, 4, widths=(128, 256, 512, 1024), num_classes=1000, imagenet=True
    ),
}

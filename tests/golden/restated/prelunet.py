"""An independent reimplementation of PReLU networks, from Tables 1 and 3 of the paper."""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared


def prelunet(
    layers: str,
    widths: Sequence[int],
    stem_width: int,
    levels: Sequence[int],
    hidden: int = 4096,
    num_classes: int = 1000,
) -> Net:
    """Returns a PReLU network (1502.01852); `layers` spells the convolutional part.

    7: 7x7 with stride 2; 3 or 2: a padded convolution of that size, the 2x2 with zeros after the
    last row and column; p or P: max pool of 2x2 or 3x3 with the same stride. The k-th run of
    convolutions after the first has widths[k] channels.
    """

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        stage, index = 1, 0
        for layer in layers:
            if layer in 'pP':
                x = F.max_pool2d(x, 2 if layer == 'p' else 3)
                stage, index = stage + 1, 0
                continue
            index, size = index + 1, int(layer)
            name = f'{stage}_{index}' if stage > 1 else '1'
            width = widths[stage - 2] if stage > 1 else stem_width
            kernel = weight(f'conv{name}.weight', width, x.shape[1], size, size)
            before, after = (size - 1) // 2, size // 2
            x = F.pad(x, (before, after, before, after))
            x = F.conv2d(x, kernel, weight(f'conv{name}.bias', width), 2 if size == 7 else 1)
            x = F.prelu(x, weight(f'prelu{name}.weight', width))
        x = torch.cat([F.adaptive_max_pool2d(x, n).flatten(1) for n in levels], 1)
        for name, width in (('fc1', hidden), ('fc2', hidden), ('fc3', num_classes)):
            kernel = weight(f'{name}.weight', width, x.shape[1])
            x = F.linear(x, kernel, weight(f'{name}.bias', width))
            if name != 'fc3':
                x = F.prelu(x, weight(f'prelu_{name}.weight', width))
        return x

    return declared(forward)


def _large(layers: str, widths: Sequence[int], stem_width: int = 96, **fields: int) -> Net:
    return prelunet(layers, widths, stem_width, (7, 3, 2, 1), **fields)


def _small(widths: Sequence[int] = (128, 256), stem_width: int = 64, **fields: int) -> Net:
    return prelunet('7P2222p222222', widths, stem_width, (6, 3, 2, 1), **fields)


NETS: dict[str, Callable[..., Net]] = {
    # Fields may replace the widths.
    'prelunet_a': functools.partial(_large, '7p33333p33333p33333', widths=(256, 512, 512)),
    'prelunet_b': functools.partial(_large, '7p333333p333333p333333', widths=(256, 512, 512)),
    'prelunet_c': functools.partial(_large, '7p333333p333333p333333', widths=(384, 768, 896)),
    'prelunet_14': _small,
}

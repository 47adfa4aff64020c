"""An independent reimplementation of RiR in the paper's form; no installable package has it."""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def rir(
    num_classes: int,
    stage_sizes: Sequence[int] = (2, 3, 3),
    widths: Sequence[int] = (48, 96, 192),
) -> Net:
    """Returns Resnet in Resnet (1603.08029), by nutszebra's Chainer code.

    One tensor has both streams, the residual one first, and one convolution has the kernels of the
    four of a layer (the paper's 'ResNet Init' without its initialization).
    """

    def shortcut(r: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        step = r.shape[2] // like.shape[2]
        r = F.avg_pool2d(r, 1, step)
        return torch.cat([r, torch.zeros_like(like[:, r.shape[1] :])], 1)

    def layer(weight: Weight, name: str, x: torch.Tensor, width: int, stride: int) -> torch.Tensor:
        half = x.shape[1] // 2
        kernel = torch.cat(
            [
                torch.cat([weight(f'{name}.{n}.weight', width, half, 3, 3) for n in inputs], 1)
                for inputs in (
                    ('res_pass_conv', 'trans_cross_conv'),
                    ('res_cross_conv', 'trans_pass_conv'),
                )
            ]
        )
        y = F.conv2d(x, kernel, stride=stride, padding=1)
        r, t = y[:, :width], y[:, width:]
        r = norm(weight, f'{name}.res_postactiv.bn', r + shortcut(x[:, :half], r)).relu()
        return torch.cat([r, norm(weight, f'{name}.trans_postactiv.bn', t).relu()], 1)

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        streams = []
        for stream in ('res_conv', 'trans_conv'):
            name = f'features.init_block.{stream}'
            kernel = weight(f'{name}.conv.weight', widths[0], 3, 3, 3)
            streams.append(norm(weight, f'{name}.bn', F.conv2d(x, kernel, padding=1)).relu())
        x = torch.cat(streams, 1)
        for stage, (size, width) in enumerate(zip(stage_sizes, widths, strict=True), 1):
            for block in range(size):
                before = x[:, : x.shape[1] // 2]
                for i in (1, 2):
                    stride = 2 if (stage > 1 and block == 0 and i == 2) else 1
                    name = f'features.stage{stage}.unit{2 * block + i}'
                    x = layer(weight, name, x, width, stride)
                r, t = x[:, :width], x[:, width:]
                x = torch.cat([r + shortcut(before, r), t], 1)
        kernel = weight('output.final_conv.conv.weight', num_classes, x.shape[1], 1, 1)
        return norm(weight, 'output.final_conv.bn', F.conv2d(x, kernel)).relu().mean((2, 3))

    return declared(forward, size=32)


NETS: dict[str, Callable[..., Net]] = {
    'rir18_wide_cifar_paper': functools.partial(rir, 10),
    'rir18_wide_cifar100_paper': functools.partial(rir, 100),
}

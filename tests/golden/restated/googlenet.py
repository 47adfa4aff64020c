"""An independent reimplementation of GoogLeNet: Table 1 of 1409.4842, and Caffe's details.

Those are of bvlc_googlenet. In evaluation, without the auxiliary heads. Names are torchvision's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared

# '#1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj' of each module; p is a max pool.
TABLE = """
3a  64  96 128 16  32  32
3b 128 128 192 32  96  64
p
4a 192  96 208 16  48  64
4b 160 112 224 24  64  64
4c 128 128 256 24  64  64
4d 112 144 288 32  64  64
4e 256 160 320 32 128 128
p
5a 256 160 320 32 128 128
5b 384 192 384 48 128 128
"""


def googlenet(aux_head: bool = True) -> Net:
    """Returns the paper's network, without its auxiliary heads in any case."""

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        def conv(name: str, x: torch.Tensor, width: int, window: int, stride: int = 1):
            kernel = weight(f'{name}.conv.weight', width, x.shape[1], window, window)
            bias = weight(f'{name}.conv.bias', width)
            return F.conv2d(x, kernel, bias, stride, padding=window // 2).relu()

        def pool(x: torch.Tensor) -> torch.Tensor:
            return F.max_pool2d(x, 3, 2, ceil_mode=True)

        x = pool(conv('conv1', x, 64, 7, stride=2))
        x = conv('conv2', F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0), 64, 1)
        x = conv('conv3', x, 192, 3)
        x = pool(F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0))
        for line in TABLE.strip().splitlines():
            if line == 'p':
                x = pool(x)
                continue
            name, *widths = line.split()
            name, (n1, r3, n3, r5, n5, proj) = f'inception{name}', map(int, widths)
            x = torch.cat(
                [
                    conv(f'{name}.branch1', x, n1, 1),
                    conv(f'{name}.branch2.1', conv(f'{name}.branch2.0', x, r3, 1), n3, 3),
                    conv(f'{name}.branch3.1', conv(f'{name}.branch3.0', x, r5, 1), n5, 5),
                    conv(f'{name}.branch4.1', F.max_pool2d(x, 3, 1, padding=1), proj, 1),
                ],
                1,
            )
        return F.linear(x.mean((2, 3)), weight('fc.weight', 1000, 1024), weight('fc.bias', 1000))

    return declared(forward)


NETS: dict[str, Callable[..., Net]] = {'googlenet': googlenet}

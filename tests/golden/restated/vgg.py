"""An independent reimplementation of VGG's A-LRN and C, from Table 1 of the paper (1409.1556).

Both end as the other variants do: a 7x7 map (adaptive pooling, as torchvision's), two linear layers
of `hidden` outputs with rectifiers, one to 1,000 classes.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared

# A letter for each layer: a digit is a convolution's window, n a normalization, m a max pool. Each
# convolution and each pool has a number, as have the rectifiers after the convolutions.
A_LRN = '3n m 3 m 33 m 33 m 33 m'
C = '33 m 33 m 331 m 331 m 331 m'


def vgg(layers: str, hidden: int = 4096) -> Net:
    """Returns A-LRN or C; Krizhevsky's normalization has k 2, n 5, alpha 1e-4 (sum), beta 3/4."""

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        width, number = 64, 0
        for letter in layers.replace(' ', ''):
            if letter == 'm':
                x = F.max_pool2d(x, 2, 2)
                width = min(2 * width, 512)
                number += 1
            elif letter == 'n':
                x = F.local_response_norm(x, 5, alpha=5 * 1e-4, beta=0.75, k=2.0)  # alpha of a mean
            else:
                window, name = int(letter), f'features.{number}'
                kernel = weight(f'{name}.weight', width, x.shape[1], window, window)
                x = F.conv2d(x, kernel, weight(f'{name}.bias', width), padding=window // 2).relu()
                number += 2
        x = F.adaptive_avg_pool2d(x, 7).flatten(1)
        for name, width in (('0', hidden), ('3', hidden), ('6', 1000)):
            name = f'classifier.{name}'
            kernel = weight(f'{name}.weight', width, x.shape[1])
            x = F.linear(x, kernel, weight(f'{name}.bias', width))
            x = x if name.endswith('6') else x.relu()
        return x

    return declared(forward)


NETS: dict[str, Callable[..., Net]] = {
    'vgg11_lrn': functools.partial(vgg, A_LRN),
    'vgg16_c': functools.partial(vgg, C),
}

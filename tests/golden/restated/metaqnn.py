"""An independent reimplementation of MetaQNN, from Tables A2 and A3 and the authors' Caffe files.

Layers are spelled one by one: width and window of a convolution as 512x5, window and stride of a
pool as p5/3, a linear layer as f512, a pooled 1x1 convolution as g10.
"""

import functools
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared

LAYERS = {
    '1_cifar': '512x5 256x3 256x5 256x3 p5/3 512x3 512x5 p2/2',
    '2_cifar': '128x1 512x3 64x1 128x3 p2/2 256x3 p2/2 512x3 p3/2',
    '3_cifar': '128x3 128x1 512x5 p2/2 128x3 p2/2 64x3 64x5',
    '4_cifar': '256x3 256x3 p5/3 256x1 128x3 p2/2 128x3',
    '5_cifar': '64x3 128x3 p5/3 256x3 p3/2 f512 f128',
    '1_svhn': '128x3 p2/2 64x5 512x5 256x3 512x3 p2/2 512x3 256x5 256x3 128x5 64x3',
    '2_svhn': '128x1 256x5 128x5 p2/2 256x5 256x1 256x3 256x3 256x5 512x5 256x3 128x3',
    '3_svhn': '128x5 128x3 64x5 p5/3 128x3 512x5 256x5 128x5 128x5 128x3',
    '4_svhn': '128x1 256x5 128x5 256x3 256x5 p2/2 128x1 512x3 256x5 p2/2 64x5 64x1',
    '5_svhn': '128x1 256x5 128x5 256x5 256x5 256x1 p3/2 128x1 256x5 512x5 256x3 128x3',
    '0_mnist': '64x3 128x1 p2/2 256x3 128x5 64x1 512x5 128x5 64x1 512x5 256x5 64x5',
    '1_mnist': '64x3 128x3 512x1 256x1 256x5 128x3 p5/3 512x1 512x3 128x5',
    '2_mnist': '128x3 64x1 64x3 64x5 p2/2 128x3 p3/2 512x3 f512 f128',
    '3_mnist': '64x1 256x5 256x5 512x1 64x3 p5/3 256x5 256x5 512x5 64x1 128x5 512x5',
    '4_mnist': '512x5 128x5 128x5 128x3 256x3 512x5 256x3 128x3',
    '5_mnist': '256x3 256x5 512x3 256x5 512x1 p5/3 256x3 64x3 256x5 512x3 128x5 512x5',
    '6_mnist': '64x5 512x5 p3/2 256x5 256x3 256x3 128x1 256x3 256x5 64x1 256x3 64x3',
    '7_mnist': '512x1 128x3 128x5 64x1 256x5 64x1 p5/3 512x1 512x3 256x3 256x5 256x5',
    '8_mnist': '128x3 512x3 p2/2 256x3 128x5 64x1 64x5 512x5 g10',
    '9_mnist': '64x1 256x3 p2/2 512x3 256x1 p5/3 256x3 512x3 f512',
}


def metaqnn(layers: str, size: int, num_classes: int = 10) -> Net:
    """Returns a network for images of `size` pixels, in evaluation and so without dropout."""

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        convolution, product = itertools.count(1), itertools.count(1)

        def convolve(x: torch.Tensor, width: int, window: int) -> torch.Tensor:
            name = f'Convolution{next(convolution)}'
            kernel = weight(f'{name}.weight', width, x.shape[1], window, window)
            bias = weight(f'{name}.bias', width)
            return F.conv2d(x, kernel, bias, padding=window // 2).relu()

        def multiply(x: torch.Tensor, width: int) -> torch.Tensor:
            name = f'InnerProduct{next(product)}'
            x = x.flatten(1)
            kernel = weight(f'{name}.weight', width, x.shape[1])
            return F.linear(x, kernel, weight(f'{name}.bias', width))

        for layer in layers.split():
            if layer[0] == 'p':
                window, stride = map(int, layer[1:].split('/'))
                kept = (x.shape[-1] - window + 1) // stride
                x = F.max_pool2d(x, window, stride)[..., :kept, :kept]
            elif layer[0] == 'f':
                x = multiply(x, int(layer[1:])).relu()
            elif layer[0] == 'g':
                x = convolve(x, int(layer[1:]), 1).mean((2, 3))
            else:
                x = convolve(x, *map(int, layer.split('x')))
        return multiply(x, num_classes)

    return declared(forward, size)


NETS: dict[str, Callable[..., Net]] = {
    f'metaqnn_{name}': functools.partial(metaqnn, layers, 28 if 'mnist' in name else 32)
    for name, layers in LAYERS.items()
} | {'metaqnn_1_cifar100': functools.partial(metaqnn, LAYERS['1_cifar'], 32, num_classes=100)}

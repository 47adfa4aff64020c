"""An independent reimplementation of Residual Attention Networks, where packages have none."""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def conv(weight: Weight, name: str, x: torch.Tensor, width: int, size: int, **how) -> torch.Tensor:
    kernel = weight(f'{name}.weight', width, x.shape[1] // how.get('groups', 1), size, size)
    return F.conv2d(x, kernel, padding=size // 2, **how)


def linear(weight: Weight, x: torch.Tensor, num_classes: int) -> torch.Tensor:
    x = x.mean((2, 3))
    kernel = weight('output.weight', num_classes, x.shape[1])
    return F.linear(x, kernel, weight('output.bias', num_classes))


def grow(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns the image resized by Caffe's Interp to the size of another."""
    return F.interpolate(x, like.shape[2:], mode='bilinear', align_corners=True)


def attention_next_56(widths: Sequence[int] = (256, 512, 1024, 2048)) -> Net:
    """Returns AttentionNeXt-56: the authors' AttentionNeXt-56-deploy.prototxt, layer by layer.

    Its units are 'branch1', convolutions 1x1, 3x3 in 32 groups and 1x1, each with a norm, and
    'branch2' at changes of shape; a rectifier follows their sum.
    """

    def unit(weight: Weight, name: str, x: torch.Tensor, width: int, stride: int = 1):
        y = norm(weight, f'{name}.bn1', conv(weight, f'{name}.conv1', x, width // 2, 1)).relu()
        y = conv(weight, f'{name}.conv2', y, width // 2, 3, stride=stride, groups=32)
        y = norm(weight, f'{name}.bn2', y).relu()
        y = norm(weight, f'{name}.bn3', conv(weight, f'{name}.conv3', y, width, 1))
        if stride > 1 or x.shape[1] != width:
            x = conv(weight, f'{name}.downsample.0', x, width, 1, stride=stride)
            x = norm(weight, f'{name}.downsample.1', x)
        return (x + y).relu()

    def shrink(x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)  # Caffe rounds up, without padding

    def attention(weight: Weight, name: str, x: torch.Tensor, stage: str) -> torch.Tensor:
        res = functools.partial(unit, weight, width=x.shape[1])
        res1 = res(f'{name}.pre1', x)
        res3 = res(f'{name}.trunk2', res(f'{name}.trunk1', res1))
        down1 = res(f'{name}.down1_1', shrink(res1))
        if stage == 'c':
            mask = res(f'{name}.up1_1', down1)
        else:
            down2 = res(f'{name}.down2_1', shrink(down1))
            if stage == 'b':
                up2 = res(f'{name}.up2_1', down2)
            else:
                down3 = res(f'{name}.down3_1', shrink(down2))
                up3 = res(f'{name}.up3_1', down3)
                up2 = res(f'{name}.skip3_1', down2) + grow(up3, down2)
                up2 = res(f'{name}.up2_1', up2)
            up1 = res(f'{name}.skip2_1', down1) + grow(up2, down1)
            mask = res(f'{name}.up1_1', up1)
        mask = conv(weight, f'{name}.mask.conv1.conv', grow(mask, res3), x.shape[1], 1)
        mask = norm(weight, f'{name}.mask.conv1.bn', mask).relu()
        mask = conv(weight, f'{name}.mask.conv2', mask, x.shape[1], 1).sigmoid()
        return res(f'{name}.post1', res3 * mask + res3)

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        x = conv(weight, 'init_block.conv.conv', x, 64, 7, stride=2)
        x = shrink(norm(weight, 'init_block.conv.bn', x).relu())
        for i, stage in enumerate('abc'):
            x = unit(weight, f'stage{i + 1}.unit1', x, widths[i], 1 if i == 0 else 2)
            x = attention(weight, f'stage{i + 1}.unit2', x, stage)
        for i in range(3):
            x = unit(weight, f'stage4.unit{i + 1}', x, widths[3], 2 if i == 0 else 1)
        return linear(weight, x, 1000)

    return declared(forward, size=224)


def attention_cifar(
    p: int,
    t: int,
    r: int,
    modules: Sequence[int],
    widths: Sequence[int] = (64, 128, 256),
) -> Net:
    """Returns Attention-N for CIFAR (1704.06904, section 4.1), with pre-activation units."""

    def unit(weight: Weight, name: str, x: torch.Tensor, width: int, stride: int = 1):
        first = norm(weight, f'{name}.conv1.bn', x).relu()
        y = conv(weight, f'{name}.conv1.conv', first, width // 4, 1)
        y = norm(weight, f'{name}.conv2.bn', y).relu()
        y = conv(weight, f'{name}.conv2.conv', y, width // 4, 3, stride=stride)
        y = norm(weight, f'{name}.conv3.bn', y).relu()
        y = conv(weight, f'{name}.conv3.conv', y, width, 1)
        if stride > 1 or x.shape[1] != width:
            x = conv(weight, f'{name}.identity_conv', first, width, 1, stride=stride)
        return x + y

    def units(weight: Weight, name: str, x: torch.Tensor, count: int) -> torch.Tensor:
        for i in range(count):
            x = unit(weight, f'{name}{i + 1}', x, x.shape[1])
        return x

    def soft(weight: Weight, name: str, x: torch.Tensor, level: int, depth: int) -> torch.Tensor:
        """Returns the mask branch below a level: down, back up, and resized to the input."""
        below = units(weight, f'{name}.down{level}_', F.max_pool2d(x, 3, 2, padding=1), r)
        if level < depth:
            deeper = soft(weight, name, below, level + 1, depth)
            skip = units(weight, f'{name}.skip{level + 1}_', below, 1)
            back = deeper + below + skip
        else:
            back = below
        return grow(units(weight, f'{name}.up{level}_', back, r), x)

    def attention(weight: Weight, name: str, x: torch.Tensor, depth: int) -> torch.Tensor:
        x = units(weight, f'{name}.pre', x, p)
        trunk = units(weight, f'{name}.trunk', x, t)
        mask = soft(weight, name, x, 1, depth) + trunk
        for layer in ('conv1', 'conv2'):
            mask = norm(weight, f'{name}.mask.{layer}.bn', mask).relu()
            mask = conv(weight, f'{name}.mask.{layer}.conv', mask, x.shape[1], 1)
        return units(weight, f'{name}.post', (1 + mask.sigmoid()) * trunk, p)

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        x = conv(weight, 'init_block.conv.conv', x, widths[0] // 4, 3)
        x = norm(weight, 'init_block.conv.bn', x).relu()
        for stage in range(3):
            stride = 1 if stage == 0 else 2
            x = unit(weight, f'stage{stage + 1}.unit1', x, widths[stage], stride)
            x = unit(weight, f'stage{stage + 1}.unit2', x, widths[stage])
            for i in range(modules[stage]):
                x = attention(weight, f'stage{stage + 1}.unit{i + 3}', x, 3 - stage)
        return linear(weight, norm(weight, 'post_activ.bn', x).relu(), 10)

    return declared(forward, size=32)


NETS: dict[str, Callable[..., Net]] = {
    'attentionnext56': attention_next_56,
    'attention92_cifar': functools.partial(attention_cifar, 1, 2, 1, modules=(2, 2, 2)),
    'attention236_cifar': functools.partial(attention_cifar, 1, 2, 1, modules=(6, 6, 6)),
    'attention452_cifar': functools.partial(attention_cifar, 2, 4, 3, modules=(6, 6, 6)),
}

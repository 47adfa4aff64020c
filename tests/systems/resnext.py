"""Test data for ResNeXt: golden tasks, default variants and listed rows; see zoo.py."""

import functools

from golden.task import Task


def cifar(blocks, cardinality, width, stage_sizes=()):
    """Returns pytorchcv's network for CIFAR, or one with `stage_sizes` equal stages."""
    from pytorchcv.models.resnext_cifar import get_resnext_cifar

    blocks = stage_sizes[0] * 9 + 2 if stage_sizes else blocks
    return get_resnext_cifar(10, blocks, cardinality, width)


def resnext101_32x32d(stage_sizes=(3, 4, 23, 3)):
    """Returns timm's network, of any depth; the whole has half a billion parameters."""
    from timm.models import resnet

    return resnet.ResNet(resnet.Bottleneck, stage_sizes, cardinality=32, base_width=32)


SHALLOW = ('14_16x4d', '14_32x2d', '14_32x4d', '26_16x4d', '26_32x2d', '26_32x4d', '38_32x4d')
CIFAR = ('20_16x4d', '20_32x2d', '20_32x4d', '29_32x4d')
TASKS = (
    *(Task(f'timm:resnext{name}') for name in ('50_32x4d', '101_32x4d', '101_64x4d')),
    Task('torchvision:resnext101_32x8d'),
    *(Task(f'timm:resnext{name}') for name in ('101_32x16d', '50d_32x4d')),
    Task(
        'timm:resnext101_32x32d',
        fields={'stage_sizes': (1, 1, 2, 1)},
        build=resnext101_32x32d,
    ),
    Task(
        'pytorchcv:resnext29_8x64d_cifar10',  # it has no name of its own
        size=32,
        build=functools.partial(cifar, 29, 8, 64),
    ),
    Task('pytorchcv:resnext29_16x64d_cifar10', size=32),
    *(Task(f'pytorchcv:resnext{name}') for name in SHALLOW),
    *(Task(f'pytorchcv:resnext{name}_cifar10', size=32) for name in CIFAR),
    # 271 layers amplify the rounding of float32 to 4e-4 of the logits' spread, in PyTorch as well.
    *(
        Task(
            f'pytorchcv:resnext272_{cardinality}x{width}d_cifar10',
            size=32,
            fields={'stage_sizes': (2, 2, 2)},
            build=functools.partial(cifar, 272, cardinality, width),
        )
        for cardinality, width in ((1, 64), (2, 32))
    ),
)
DEFAULT = ('resnext50_32x4d', 'resnext20_16x4d_cifar')
CSV = ('ResNeXt',)
LISTED = {
    name: name
    for name in (
        'resnext50_32x4d',
        'resnext101_32x4d',
        'resnext101_64x4d',
        'resnext101_32x8d',
        'resnext29_8x64d_cifar',
        'resnext29_16x64d_cifar',
    )
}
UNLISTED = {}

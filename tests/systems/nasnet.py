"""Test data for NASNet: golden tasks, default variants and listed rows; see zoo.py."""

import functools

from golden.task import Task


def _any_size(name):
    """Returns a network for any image size; those below are odd and even at the same strides."""
    import pretrainedmodels
    import torch

    module = pretrainedmodels.__dict__[name](num_classes=1000, pretrained=None)
    module.avg_pool = torch.nn.AdaptiveAvgPool2d(1)
    return module


def _timm(**_):
    """Returns timm's network, without an auxiliary head."""
    import timm

    return timm.create_model('nasnetalarge')


TASKS = (
    *(
        Task(
            f'pretrainedmodels:{name}',
            size,
            fields={'aux_head': False},
            build=functools.partial(_any_size, name),
        )
        for name, size in (('nasnetamobile', 32), ('nasnetalarge', 43))
    ),
    Task('timm:nasnetalarge', 43, fields={'aux_head': False}, build=_timm),
    Task(
        'restated:nasnet_a_6_768_cifar',
        12,
        fields={'cells': 1, 'filters': 8, 'stem_filters': 24, 'aux_head': False},
    ),
    Task(
        'restated:nasnet_a_7_2304_cifar',
        22,
        fields={'cells': 2, 'filters': 9, 'stem_filters': 27, 'aux_head': False},
    ),
)
DEFAULT = ('nasnet_a_6_768_cifar',)
CSV = ('NASNet',)
LISTED = {
    'nasnet_a_large': 'nasnet_a_large 6@4032',
    'nasnet_a_6_768_cifar': 'nasnet_a_cifar 6@768',
    'nasnet_a_7_2304_cifar': 'nasnet_a_cifar 7@2304 cutout',
}
UNLISTED = {'nasnet_a_mobile 4@1056': 'nasnet_a_mobile; the row counts cropped pixels'}

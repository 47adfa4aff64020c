"""Networks of pretrainedmodels: name -> (builder, image size)."""

import functools

import pretrainedmodels
import torch

CLASSES = 10


def build(name):
    module = pretrainedmodels.__dict__[name](num_classes=1000, pretrained=None)
    for pool in ('avg_pool', 'avgpool', 'avgpool_1a'):
        if isinstance(getattr(module, pool, None), torch.nn.AvgPool2d):
            setattr(module, pool, torch.nn.AdaptiveAvgPool2d(1))
    if name.startswith('squeezenet'):
        module.last_conv = torch.nn.Conv2d(512, CLASSES, 1)
    elif isinstance(module.last_linear, torch.nn.Conv2d):
        module.last_linear = torch.nn.Conv2d(module.last_linear.in_channels, CLASSES, 1)
    else:
        module.last_linear = torch.nn.Linear(module.last_linear.in_features, CLASSES)
    return module


SIZES = {
    64: (
        *('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152', 'fbresnet152'),
        *('resnext101_32x4d', 'resnext101_64x4d', 'squeezenet1_0', 'squeezenet1_1', 'xception'),
        *('se_resnet50', 'se_resnet101', 'se_resnet152', 'senet154'),
        *('se_resnext50_32x4d', 'se_resnext101_32x4d', 'pnasnet5large'),
        *('nasnetamobile', 'nasnetalarge', 'cafferesnet101'),
    ),
    107: ('inceptionv4', 'inceptionresnetv2'),
    224: (
        *('densenet121', 'densenet169', 'densenet201', 'densenet161'),
        *('vgg11', 'vgg11_bn', 'vgg13', 'vgg13_bn', 'vgg16', 'vgg16_bn', 'vgg19', 'vgg19_bn'),
        *('dpn68', 'dpn68b', 'dpn92', 'dpn98', 'dpn131', 'dpn107'),
    ),
    299: ('inceptionv3',),
    331: ('polynet',),
}
NETWORKS = {
    name: (functools.partial(build, name), size) for size, names in SIZES.items() for name in names
}

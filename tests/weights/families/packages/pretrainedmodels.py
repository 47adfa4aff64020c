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


# The cheap and the different first, as each takes a while.
SIZES = {
    'resnet18': 64,
    'squeezenet1_0': 64,
    'se_resnet50': 64,
    'fbresnet152': 64,
    'cafferesnet101': 64,
    'xception': 64,
    'resnext101_32x4d': 64,
    'dpn68': 224,
    'densenet121': 224,
    'vgg11_bn': 224,
    'inceptionv4': 107,
    'inceptionresnetv2': 107,
    'inceptionv3': 299,
    'se_resnext50_32x4d': 64,
    'senet154': 64,
    'pnasnet5large': 64,
    'squeezenet1_1': 64,
    'resnet34': 64,
    'resnet50': 64,
    'dpn68b': 224,
    'nasnetamobile': 64,
    'dpn92': 224,
    'vgg11': 224,
    'densenet161': 224,
    'resnet101': 64,
    'resnext101_64x4d': 64,
    'se_resnext101_32x4d': 64,
    'se_resnet101': 64,
    'resnet152': 64,
    'se_resnet152': 64,
    'densenet169': 224,
    'densenet201': 224,
    'dpn98': 224,
    'dpn107': 224,
    'dpn131': 224,
    'vgg13': 224,
    'vgg13_bn': 224,
    'vgg16': 224,
    'vgg16_bn': 224,
    'vgg19': 224,
    'vgg19_bn': 224,
    'nasnetalarge': 64,
    'polynet': 331,
}
NETWORKS = {name: (functools.partial(build, name), size) for name, size in SIZES.items()}

"""Networks of public repositories: the variant's name -> (builder, image size)."""

from packages.clones import network


def wrn(depth, k):
    def make(module):
        return module.WideResNet(depth, 10, k)

    return network('xternalz+WideResNet-pytorch', 'wideresnet', make)


def bearpaw(name, **fields):
    def make(module):
        return getattr(module, name)(num_classes=10, **fields)

    return network('bearpaw+pytorch-classification', 'models.cifar', make)


def resnext(cardinality):
    return bearpaw('resnext', cardinality=cardinality, depth=29, widen_factor=4, dropRate=0)


def densenet(depth, growth):
    return bearpaw('densenet', depth=depth, growthRate=growth, compressionRate=2, dropRate=0)


def akamaster(depth):
    def make(module):
        return getattr(module, f'resnet{depth}')()

    return network('akamaster+pytorch_resnet_cifar10', 'resnet', make)


def mobilenet_v2(width):
    def make(module):
        return module.mobilenetv2(num_classes=10, width_mult=width)

    return network('d-li14+mobilenetv2.pytorch', 'models.imagenet.mobilenetv2', make, 64)


def tonylins(module):
    return module.MobileNetV2(n_class=10)


def mobilenet_v3(mode, width):
    def make(module):
        return getattr(module, f'mobilenetv3_{mode}')(num_classes=10, width_mult=width)

    return network('d-li14+mobilenetv3.pytorch', 'mobilenetv3', make, 64)


WRN = ((40, 1), (16, 8), (40, 2), (40, 4), (40, 8), (28, 10), (22, 8), (22, 10), (16, 10), (28, 12))
NETWORKS = {
    **{f'mobilenetv3_{mode}_100': mobilenet_v3(mode, 1.0) for mode in ('large', 'small')},
    **{f'mobilenetv3_{mode}_075': mobilenet_v3(mode, 0.75) for mode in ('large', 'small')},
    **{f'mobilenetv2_{round(100 * w):03d}': mobilenet_v2(w) for w in (1.0, 0.35, 0.5, 0.75, 1.4)},
    'mobilenetv2_100 of tonylins': network(
        'tonylins+pytorch-mobilenet-v2', 'MobileNetV2', tonylins, 64
    ),
    'densenet100_k12_bc_cifar': densenet(100, 12),
    'resnet20_cifar': akamaster(20),
    **{f'wrn{depth}_{k}_cifar': wrn(depth, k) for depth, k in WRN[:3]},
    'wrn16_8_cifar of bearpaw': bearpaw('wrn', depth=16, widen_factor=8),
    'resnext29_8x64d_cifar': resnext(8),
    'densenet190_k40_bc_cifar': densenet(190, 40),
    **{f'resnet{depth}_cifar': akamaster(depth) for depth in (32, 44, 56, 110)},
    **{f'wrn{depth}_{k}_cifar': wrn(depth, k) for depth, k in WRN[3:]},
    'resnext29_16x64d_cifar': resnext(16),
}

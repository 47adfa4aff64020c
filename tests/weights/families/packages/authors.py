"""Networks of the authors' repositories: the variant's name -> (builder, image size)."""

import json
import sys
import types

import torch
from forms import mask_of_groups
from packages.clones import ROOT, arguments, network


class Functional(torch.nn.Module):
    """A function of a dict of parameters."""

    def __init__(self, function, parameters):
        super().__init__()
        self.function = function
        self.tensors = parameters
        learned = (v for n, v in parameters.items() if 'running' not in n)
        self.learned = torch.nn.ParameterList([torch.nn.Parameter(v.detach()) for v in learned])

    def forward(self, images):
        return self.function(images, self.tensors, False)

    def state_dict(self):
        return self.tensors

    def load_state_dict(self, state, strict):
        assert not strict or state.keys() == self.tensors.keys()
        self.tensors = state


def _nested(tree, path=()):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _nested(value, (*path, name))
        else:
            yield (*path, name), value


def wrn(depth, k):
    nested = types.ModuleType('nested_dict')  # a package for dicts of dicts
    nested.nested_dict = lambda tree: types.SimpleNamespace(items_flat=lambda: _nested(tree))

    def make(module):
        return Functional(*module.resnet(depth, k, 10))

    sys.modules['nested_dict'] = nested
    return network('szagoruyko+wide-residual-networks/pytorch', 'resnet', make)


def pyramidnet(depth, alpha, bottleneck):
    def make(module):
        return module.PyramidNet('cifar10', depth, alpha, 10, bottleneck)

    return network('dyhan0920+PyramidNet-PyTorch', 'PyramidNet', make)


def pyramidnet_imagenet(depth, alpha):
    def make(module):
        return module.PyramidNet('imagenet', depth, alpha, 10, True)

    return network('dyhan0920+PyramidNet-PyTorch', 'PyramidNet', make, 64)


def condensenet(size, data, stages, growth, groups, learned=False):
    def make(module):
        constructor = module.condensenet if learned else module.condensenet_converted
        return constructor(
            arguments(
                data=data,
                stages=stages,
                growth=growth,
                group_1x1=groups,
                group_3x3=groups,
                condense_factor=groups,
                num_classes=10,
            )
        )

    def finish(state):
        return {
            name: torch.from_numpy(mask_of_groups(value.numpy(), groups))
            if name.endswith('._mask')
            else value
            for name, value in state.items()
        }

    return network('ShichenLiu+CondenseNet', 'models', make, size, finish=finish)


def condensenets():
    imagenet = (224, 'imagenet', [4, 6, 8, 10, 8], [8, 16, 32, 64, 128])
    for learned, suffix in ((False, ''), (True, '_learned')):
        for depth, size in ((50, 8), (74, 12), (86, 14), (98, 16), (110, 18), (122, 20)):
            shape = (32, 'cifar10', [size] * 3, [8, 16, 32], 4)
            yield f'condensenet{depth}_cifar{suffix}', condensenet(*shape, learned)
        shape = (32, 'cifar10', [30] * 3, [12, 24, 48], 4)
        yield f'condensenet182_cifar{suffix}', condensenet(*shape, learned)
        yield f'condensenet74_c4_g4{suffix}', condensenet(*imagenet, 4, learned)
        yield f'condensenet74_c8_g8{suffix}', condensenet(*imagenet, 8, learned)


def darts(constructor, genotype, size, *arguments):
    def make(module):
        import genotypes

        made = getattr(module, constructor)(*arguments, True, getattr(genotypes, genotype))
        made.drop_path_prob = 0.0
        if hasattr(made.global_pooling, 'kernel_size'):
            made.global_pooling = torch.nn.AdaptiveAvgPool2d(1)
        return made

    return network('quark0+darts/cnn', 'model', make, size)


def proxylessnas(name):
    def make(module):
        config = json.loads((ROOT / 'han-cai+files' / f'{name}.config').read_text())
        config['classifier']['out_features'] = 10
        made = module.ProxylessNASNets.build_from_config(config)
        made.set_bn_param(bn_momentum=config['bn']['momentum'], bn_eps=config['bn']['eps'])
        return made

    return network('mit-han-lab+proxylessnas', 'proxyless_nas.nas_modules', make, 64)


def megvii(size):
    def make(module):
        return module.ShuffleNetV2(n_class=10, model_size=size)

    return network('megvii-model+ShuffleNet-Series/ShuffleNetV2', 'network', make, 64)


def res2net(module, name):
    def make(imported):
        return getattr(imported, name)(num_classes=10)

    return network('Res2Net+Res2Net-PretrainedModels', module, make, 64)


CONDENSENETS = dict(condensenets())
BASIC = ((110, 48), (110, 84), (110, 270))
BOTTLENECK = ((164, 270), (200, 240), (236, 220), (272, 200))
WRN = ((16, 8), (40, 1), (40, 2), (40, 4), (40, 8), (28, 10), (22, 8), (22, 10), (16, 10), (28, 12))
PROXYLESS = {'gpu': 'gpu', 'cpu': 'cpu', 'mobile': 'mobile', 'mobile14': 'mobile_14'}
NETWORKS = {
    **{f'wrn{depth}_{k}_cifar': wrn(depth, k) for depth, k in WRN[:2]},
    'condensenet50_cifar': CONDENSENETS['condensenet50_cifar'],
    'condensenet50_cifar_learned': CONDENSENETS['condensenet50_cifar_learned'],
    'shufflenetv2_0.5x': megvii('0.5x'),
    **{f'shufflenetv2_{x}_released': megvii(x) for x in ('1.0x', '1.5x', '2.0x')},
    'pyramidnet110_a48_cifar': pyramidnet(110, 48, False),
    'pyramidnet164_a270_cifar': pyramidnet(164, 270, True),
    'pyramidnet101_a360': pyramidnet_imagenet(101, 360),
    'darts_v2': darts('NetworkImageNet', 'DARTS_V2', 224, 48, 10, 14),
    'darts_v2_cifar': darts('NetworkCIFAR', 'DARTS_V2', 32, 36, 10, 20),
    'darts_v1_cifar': darts('NetworkCIFAR', 'DARTS_V1', 32, 36, 10, 20),
    **{f'proxyless_{n}': proxylessnas(f'proxyless_{m}') for n, m in PROXYLESS.items()},
    'res2net50_26w_4s': res2net('res2net', 'res2net50'),
    'res2next50': res2net('res2next', 'res2next50'),
    'dla60_res2net': res2net('dla', 'res2net_dla60'),
    **CONDENSENETS,
    **{f'wrn{depth}_{k}_cifar': wrn(depth, k) for depth, k in WRN[2:]},
    **{f'pyramidnet{d}_a{a}_cifar': pyramidnet(d, a, False) for d, a in BASIC[1:]},
    **{f'pyramidnet{d}_a{a}_cifar': pyramidnet(d, a, True) for d, a in BOTTLENECK[1:]},
    **{f'pyramidnet200_a{a}': pyramidnet_imagenet(200, a) for a in (300, 450)},
}

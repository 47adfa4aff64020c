"""Writes published.json.xz: the tensors of the weights that three packages publish for our systems.

    python tests/golden/published.py

Needs PyTorch and the packages of requirements.txt, and nothing of `cls`. The packages know which
weights they publish, and the networks that these fill; the networks are made without memory (on
the device `meta`), and nothing is downloaded. The model files are those of the 45 systems, in
whole, with all further networks that a package defines in them (BlurPool, ECA, ResNet-RS, ...).

The file is a JSON object of
  made_with   the packages and their versions;
  names       each name of a tensor, once;
  networks    for each distinct state dict, its tensors in order: a flat list of the number of the
              name, and the number of the form;
  forms       [dtype, shape] of tensors;
  entries     [package, network, tag, file, number of the network, classes] of each weight.
"""

import importlib.metadata
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import torch

OUTPUT = Path(__file__).with_name('published.json.xz')
TIMM = (
    'densenet', 'dpn', 'efficientnet', 'inception_resnet_v2', 'inception_v3', 'inception_v4',
    'mobilenetv3', 'nasnet', 'pnasnet', 'res2net', 'resnet', 'senet', 'sknet', 'vgg', 'xception',
)  # fmt: skip
TORCHVISION = (
    'densenet', 'efficientnet', 'googlenet', 'inception', 'mnasnet', 'mobilenetv2', 'mobilenetv3',
    'resnet', 'shufflenetv2', 'squeezenet', 'vgg',
)  # fmt: skip
PYTORCHCV = (
    'bninception', 'condensenet', 'darts', 'densenet', 'densenet_cifar', 'dpn', 'efficientnet',
    'efficientnetedge', 'fdmobilenet', 'fractalnet_cifar', 'igcv3', 'inceptionresnetv1',
    'inceptionresnetv2', 'inceptionv3', 'inceptionv4', 'mnasnet', 'mobilenet', 'mobilenet_cub',
    'mobilenetb', 'mobilenetv2', 'mobilenetv3', 'nasnet', 'pnasnet', 'polynet', 'preresnet',
    'preresnet_cifar', 'proxylessnas', 'proxylessnas_cub', 'pyramidnet', 'pyramidnet_cifar',
    'resattnet', 'resnet', 'resnet_cifar', 'resnet_cub', 'resneta', 'resnetd', 'resnext',
    'resnext_cifar', 'rir_cifar', 'senet', 'sepreresnet', 'sepreresnet_cifar', 'seresnet',
    'seresnet_cifar', 'seresnet_cub', 'seresnext', 'shufflenet', 'shufflenetv2', 'shufflenetv2b',
    'sknet', 'squeezenet', 'vgg', 'wrn', 'wrn1bit_cifar', 'wrn_cifar', 'xception',
)  # fmt: skip

Entry = tuple[str, str, str, str, torch.nn.Module, int]


def of_timm() -> Iterator[Entry]:
    """Yields (package, network, tag, file, module, classes) of timm's published weights."""
    import timm
    from timm.models import get_pretrained_cfg
    from timm.models._registry import _model_to_module

    for full in timm.list_pretrained():
        name, _, tag = full.partition('.')
        file = _model_to_module[name]
        if file in TIMM or (file == 'dla' and 'res2ne' in name):
            settings = get_pretrained_cfg(full)
            module = timm.create_model(name, num_classes=settings.num_classes)
            file = settings.hf_hub_id or settings.url
            yield 'timm', name, tag, file or '', module, settings.num_classes


def of_torchvision() -> Iterator[Entry]:
    """Yields (package, network, tag, file, module, classes) of torchvision's published weights."""
    from torchvision import models

    for name in models.list_models(module=models):
        weights = models.get_model_weights(name)
        if models.get_model_builder(name).__module__.split('.')[-1] not in TORCHVISION:
            continue
        for entry in weights:
            # Files of these two have the auxiliary classifiers, which the builders then remove.
            more = {'aux_logits': True} if name in ('googlenet', 'inception_v3') else {}
            module = models.get_model(name, weights=None, **more, **uninitialized(name))
            # The last tensor is of the classifier; not every entry lists its categories.
            classes = list(module.state_dict().values())[-1].shape[0]
            file = entry.url.rpartition('/')[2]
            yield 'torchvision', name, entry.name, file, module, classes


def uninitialized(name: str) -> dict[str, bool]:
    """Returns the argument of networks that draw their variables slowly, unless asked not to."""
    return {'init_weights': False} if name in ('googlenet', 'inception_v3') else {}


def of_pytorchcv() -> Iterator[Entry]:
    """Yields (package, network, tag, file, module, classes) of pytorchcv's published weights."""
    from pytorchcv import model_provider
    from pytorchcv.models.common.model_store import get_model_metainfo_dict

    for name, (_, error, digest, _) in get_model_metainfo_dict().items():
        builder = model_provider._models.get(name)
        if builder and builder.__module__.split('.')[-1] in PYTORCHCV:
            module = builder(pretrained=False)
            file = f'{name}-{error}-{digest[:8]}.pth'
            yield 'pytorchcv', name, '', file, module, module.num_classes


def main():
    """Writes the file."""
    names: dict[str, int] = {}
    forms: dict[tuple, int] = {}
    networks: dict[tuple[int, ...], int] = {}
    entries = []
    for package in (of_torchvision, of_timm, of_pytorchcv):
        with torch.device('meta'):
            for *row, module, classes in package():
                flat = []
                for name, tensor in module.state_dict().items():
                    form = (str(tensor.dtype).removeprefix('torch.'), tuple(tensor.shape))
                    flat.append(names.setdefault(name, len(names)))
                    flat.append(forms.setdefault(form, len(forms)))
                number = networks.setdefault(tuple(flat), len(networks))
                entries.append((*row, number, classes))
    packages = ('torch', 'torchvision', 'timm', 'pytorchcv')
    table = {
        'made_with': {package: importlib.metadata.version(package) for package in packages},
        'names': list(names),
        'forms': list(forms),
        'networks': list(networks),
        'entries': entries,
    }
    text = json.dumps(table, separators=(',', ':')).encode()
    filters = [{'id': lzma.FILTER_LZMA2, 'preset': 9 | lzma.PRESET_EXTREME, 'dict_size': 1 << 26}]
    data = lzma.compress(text, filters=filters)
    OUTPUT.write_bytes(data)
    print(f'{len(entries)} weights of {len(networks)} networks in {len(data):,} bytes')


if __name__ == '__main__':
    main()

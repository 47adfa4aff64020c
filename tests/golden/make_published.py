"""Writes cls/weights/published.csv: the weights that packages publish for the registered variants.

    PYTHON tests/golden/make_published.py facts timm torchvision pytorchcv ... > FACTS
    PYTHON tests/golden/make_published.py facts keras >> FACTS
    .venv/bin/python tests/golden/make_published.py table FACTS

The first command needs the packages and nothing of `cls`, and reads only files of these packages:
the network is not used. The second needs `cls`, and keeps the rows of its variants.
"""

import csv
import importlib
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / 'cls' / 'weights' / 'published.csv'
# Files of timm that have models of the systems here, and networks in them that are of others.
TIMM = ('densenet', 'dpn', 'efficientnet', 'inception_resnet_v2', 'inception_v3', 'inception_v4')
TIMM += ('mobilenetv3', 'nasnet', 'pnasnet', 'res2net', 'resnet', 'senet', 'sknet', 'vgg')
TIMM += ('xception', 'dla', 'resnetv2')
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5,) * 3, (0.5,) * 3
CAFFE = tuple(round(x / 255, 8) for x in (123.68, 116.779, 103.939)), (round(1 / 255, 9),) * 3

# Packages' names of networks -> variants, where `reference` and the families lack them. Numbers are
# equal, see tests/golden and the families.
ALSO = {
    'timm': {
        **{f'resnet{d}': f'resnet{d}' for d in (18, 34, 50, 101, 152)},
        **{f'densenet{d}': f'densenet{d}' for d in (121, 161, 169, 201)},
        **{f'vgg{d}{bn}': f'vgg{d}{bn}' for d in (11, 13, 16, 19) for bn in ('', '_bn')},
        'wide_resnet50_2': 'wrn50_2',
        'resnext101_32x8d': 'resnext101_32x8d',
        'mnasnet_100': 'mnasnet_b1',
        'mobilenetv2_100': 'mobilenetv2_100',
        'mobilenetv3_large_100': 'mobilenetv3_large_100',
        'mobilenetv3_small_100': 'mobilenetv3_small_100',
    },
    'torchvision': {
        **{f'efficientnet_b{k}': f'efficientnet_b{k}' for k in range(8)},
        'resnext50_32x4d': 'resnext50_32x4d',
        'resnext101_64x4d': 'resnext101_64x4d',
        'inception_v3': 'inception_v3',
        'mnasnet0_5': 'mnasnet_b1_050',
        'mnasnet0_75': 'mnasnet_b1_075',
    },
    'keras': {
        **{f'VGG{d}': f'vgg{d}' for d in (16, 19)},
        **{f'ResNet{d}': f'resnet{d}_v1' for d in (50, 101, 152)},
        **{f'DenseNet{d}': f'densenet{d}' for d in (121, 169, 201)},
        **{f'EfficientNetB{k}': f'tf_efficientnet_b{k}' for k in range(8)},
        **{f'MobileNet_{w}': f'mobilenet_{w}_tf' for w in ('100', '075', '050', '025')},
        'MobileNetV2_100': 'mobilenetv2_100_tf',
        'MobileNetV3LargeMinimalistic_100': 'mobilenetv3_large_minimal_100',
        'MobileNetV3SmallMinimalistic_100': 'mobilenetv3_small_minimal_100',
    },
    'pretrainedmodels': {
        **{f'resnet{d}': f'resnet{d}' for d in (18, 34, 50, 101, 152)},
        **{f'se_resnet{d}': f'seresnet{d}' for d in (50, 101, 152)},
        **{f'se_resnext{d}_32x4d': f'seresnext{d}_32x4d' for d in (50, 101)},
        **{f'vgg{d}{bn}': f'vgg{d}{bn}' for d in (11, 13, 16, 19) for bn in ('', '_bn')},
        **{f'densenet{d}': f'densenet{d}' for d in (121, 161, 169, 201)},
        'senet154': 'senet154',
        'xception': 'xception',
        'inceptionv4': 'inception_v4',
        'inceptionresnetv2': 'inception_resnet_v2',
    },
}
COLUMNS = (
    'variant',
    'package',
    'name',
    'tag',
    'source',
    'file',
    'hash',
    'classes',
    'size',
    'resize',
)
COLUMNS += ('interpolation', 'mean', 'std', 'space', 'test_size', 'test_resize', 'license', 'top1')
COLUMNS += ('default',)


def row(package: str, name: str, tag: str, source: str, **columns: Any) -> dict[str, Any]:
    """Returns the facts of one set of weights; a column that the package does not state is ''."""
    empty = dict.fromkeys(COLUMNS, '')
    return empty | {'package': package, 'name': name, 'tag': tag, 'source': source} | columns


def by_name(url: str) -> str:
    """Returns the hash in the name of a file as torch.hub has it."""
    found = re.search(r'-([a-f0-9]{8,})\.[a-z0-9]+$', url)
    return f'sha256:{found[1]}' if found else ''


def timm() -> Iterator[dict[str, Any]]:
    from timm.models import get_pretrained_cfg, list_models
    from timm.models._registry import _model_to_module

    for full in list_models(pretrained=True):
        name, _, tag = full.partition('.')
        if _model_to_module[name] not in TIMM:
            continue
        fields = get_pretrained_cfg(full).to_dict()
        if fields['crop_mode'] != 'center':
            print(f'timm {full}: crop_mode {fields["crop_mode"]}', file=sys.stderr)
            continue
        hub, url = fields.get('hf_hub_id'), fields.get('url') or ''
        size, test = fields['input_size'][1], (fields.get('test_input_size') or (0, 0))[1]
        crop = fields['crop_pct']
        test_crop = fields.get('test_crop_pct') or crop
        yield row(
            'timm',
            name,
            tag,
            f'hf:{hub}' if hub else url,
            file=Path(urlsplit(url).path).name,
            hash='' if hub else by_name(url),
            classes=fields['num_classes'],
            size=size,
            resize=math.floor(size / crop),
            interpolation=fields['interpolation'],
            mean=fields['mean'],
            std=fields['std'],
            test_size=test or '',
            test_resize=math.floor(test / test_crop) if test else '',
            license=fields.get('license') or '',
            default=get_pretrained_cfg(name).tag == tag,
        )


def torchvision() -> Iterator[dict[str, Any]]:
    from torchvision import models

    for name in models.list_models(module=models):
        weights = models.get_model_weights(name)
        for entry in weights:
            if not entry.meta.get('categories'):  # features alone
                continue
            transform = entry.transforms()
            mean, std = tuple(transform.mean), tuple(transform.std)
            if name in ('googlenet', 'inception_v3'):  # `transform_input` converts in the network
                mean, std = HALF
            yield row(
                'torchvision',
                name,
                entry.name,
                entry.url,
                file=Path(urlsplit(entry.url).path).name,
                hash=by_name(entry.url),
                classes=len(entry.meta['categories']),
                size=transform.crop_size[0],
                resize=transform.resize_size[0],
                interpolation=transform.interpolation.value,
                mean=mean,
                std=std,
                license='cc-by-nc-4.0' if 'SWAG' in entry.meta.get('license', '') else '',
                top1=entry.meta['_metrics']['ImageNet-1K']['acc@1'],
                default=entry is weights.DEFAULT,
            )


def pytorchcv() -> Iterator[dict[str, Any]]:
    package = importlib.import_module('pytorchcv.models.common.model_store')
    classes = {'cifar10': 10, 'cifar100': 100, 'svhn': 10, 'cub': 200}
    rows = package.load_csv(package.get_model_metainfos_file_path())
    names = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    columns = ('model_name', 'error_value', 'checksum', 'repo_release_tag', 'img_size', 'img_scale')
    for name, error, checksum, release, size, scale in zip(
        *(names[column] for column in columns), strict=True
    ):
        data = name.rpartition('_')[2]
        if checksum == 'NA' or (size == 'NA' and data not in classes):
            continue
        file = f'{name}-{error}-{checksum[:8]}.pth'
        url = f'https://github.com/osmr/imgclsmob/releases/download/{release}/{file}.zip'
        small = data in ('cifar10', 'cifar100', 'svhn')
        stated = size != 'NA'
        yield row(
            'pytorchcv',
            name,
            '',
            url,
            file=file,
            hash=f'sha1:{checksum}',
            classes=classes.get(data, 1000),
            size=size if stated else 32 if small else '',
            resize=math.ceil(int(size) / float(scale)) if stated else 32 if small else '',
            top1=round(100 - int(error) / 100, 2) if small else '',  # ImageNet's is of top-5
        )


def pretrainedmodels() -> Iterator[dict[str, Any]]:
    folder = Path(importlib.util.find_spec('pretrainedmodels').origin).parent / 'models'  # type: ignore[reportOptionalMemberAccess]
    settings: dict[str, Any] = {}
    for file in sorted(folder.glob('*.py')):  # some import old packages
        text = file.read_text()
        if found := re.search(r'^pretrained_settings = (\{.*?^\})', text, re.M | re.S):
            settings |= eval(found[1], {})
    for name, sets in settings.items():
        for tag, fields in sets.items():
            if tag == 'imagenet+background':  # the same file with a further output
                continue
            order = -1 if fields['input_space'] == 'BGR' else 1
            yield row(
                'pretrainedmodels',
                name,
                tag,
                fields['url'],
                file=Path(urlsplit(fields['url']).path).name,
                hash=by_name(fields['url']),
                classes=fields['num_classes'],
                size=fields['input_size'][1],
                resize=math.floor(fields['input_size'][1] / fields.get('scale', 0.875)),
                mean=[x / max(fields['input_range']) for x in fields['mean']][::order],
                std=[x / max(fields['input_range']) for x in fields['std']][::order],
                space='' if fields['input_space'] == 'RGB' else fields['input_space'],
            )


def efficientnet_pytorch() -> Iterator[dict[str, Any]]:
    utils = importlib.import_module('efficientnet_pytorch.utils')
    for tag, urls in (('', utils.url_map), ('advprop', utils.url_map_advprop)):
        for name, url in urls.items():
            yield row(
                'efficientnet_pytorch',
                name,
                tag,
                url,
                file=Path(urlsplit(url).path).name,
                hash=by_name(url),
                classes=1000,
                size=utils.efficientnet_params(name)[2],
                mean=HALF[0] if tag else IMAGENET[0],  # its README: advprop scales to -1..1
                std=HALF[1] if tag else IMAGENET[1],
            )


def keras() -> Iterator[dict[str, Any]]:
    """Yields facts of Keras Applications, whose modules state URLs, hashes and a mode of pixels."""
    package = 'keras.src.applications.'
    hub = 'https://storage.googleapis.com/tensorflow/keras-applications/'
    kernels = '_weights_tf_dim_ordering_tf_kernels.h5'

    def known(name: str, url: str, size: int, mode: tuple, md5: str, space: str = '') -> dict:
        file = url.rpartition('/')[2]
        size_of = {'size': size, 'mean': mode[0], 'std': mode[1], 'space': space}
        told = {'hash': f'md5:{md5}' if md5 else '', 'file': file, 'classes': 1000}
        return row('keras', name, 'imagenet', url, **told, **size_of)

    for depth in ('16', '19'):
        module = importlib.import_module(f'{package}vgg{depth}')
        md5 = _first_hash(module)
        yield known(f'VGG{depth}', module.WEIGHTS_PATH, 224, CAFFE, md5, 'BGR')
    resnet = importlib.import_module(f'{package}resnet')
    for name, (md5, _) in resnet.WEIGHTS_HASHES.items():
        if re.fullmatch(r'resnet\d+(v2)?', name):
            url = f'{resnet.BASE_WEIGHTS_PATH}{name}{kernels}'
            public = name.replace('resnet', 'ResNet').replace('v2', 'V2')
            mode = (CAFFE, md5, 'BGR') if 'V2' not in public else (HALF, md5, '')
            yield known(public, url, 224, *mode)
    densenet = importlib.import_module(f'{package}densenet')
    hashes = re.findall(r'file_hash="(\w+)"', Path(densenet.__file__ or '').read_text())
    for name, md5 in zip(('121', '169', '201'), hashes[:3], strict=True):
        url = f'{densenet.BASE_WEIGHTS_PATH}densenet{name}{kernels}'
        yield known(f'DenseNet{name}', url, 224, IMAGENET, md5)
    sizes = (224, 240, 260, 300, 380, 456, 528, 600)
    efficientnet = importlib.import_module(f'{package}efficientnet')
    for k, size in enumerate(sizes):  # the network normalizes its images itself
        url = f'{efficientnet.BASE_WEIGHTS_PATH}efficientnetb{k}.h5'
        md5 = efficientnet.WEIGHTS_HASHES[f'b{k}'][0]
        yield known(f'EfficientNetB{k}', url, size, IMAGENET, md5)
    for width, text in (('100', '1_0'), ('075', '7_5'), ('050', '5_0'), ('025', '2_5')):
        for size in (224, 192, 160, 128):
            url = f'{hub}mobilenet/mobilenet_{text}_{size}_tf.h5'
            yield known(f'MobileNet_{width}', url, size, HALF, '')
    for width in ('1.4', '1.3', '1.0', '0.75', '0.5', '0.35'):
        for size in (224, 192, 160, 128, 96):
            if width in ('1.4', '1.3') and size != 224:
                continue
            file = f'mobilenet_v2{kernels.removesuffix(".h5")}_{width}_{size}.h5'
            name = f'MobileNetV2_{round(100 * float(width)):03}'
            yield known(name, f'{hub}mobilenet_v2/{file}', size, HALF, '')
    mobilenetv3 = importlib.import_module(f'{package}mobilenet_v3')
    for name, (md5, _) in mobilenetv3.WEIGHTS_HASHES.items():
        size, form, width = re.fullmatch(r'(large|small)(_minimalistic)?_224_(.*)', name).groups()  # type: ignore[reportOptionalMemberAccess]
        public = f'MobileNetV3{size.title()}{"Minimalistic" if form else ""}'
        url = f'{mobilenetv3.BASE_WEIGHT_PATH}weights_mobilenet_v3_{name}_float.h5'
        yield known(f'{public}_{round(100 * float(width[:-6])):03}', url, 224, HALF, md5)
    for name, public, mode in (
        ('inception_v3', 'InceptionV3', HALF),
        ('xception', 'Xception', HALF),
    ):
        module = importlib.import_module(f'{package}{name}')
        yield known(public, module.WEIGHTS_PATH, 299, mode, _first_hash(module))
    module = importlib.import_module(f'{package}inception_resnet_v2')
    url = f'{module.BASE_WEIGHT_URL}inception_resnet_v2{kernels}'
    yield known('InceptionResNetV2', url, 299, HALF, _first_hash(module))
    nasnet = importlib.import_module(f'{package}nasnet')
    hashes = re.findall(r'file_hash="(\w+)"', Path(nasnet.__file__ or '').read_text())
    yield known('NASNetMobile', nasnet.NASNET_MOBILE_WEIGHT_PATH, 224, HALF, hashes[0])
    yield known('NASNetLarge', nasnet.NASNET_LARGE_WEIGHT_PATH, 331, HALF, hashes[2])


def _first_hash(module: Any) -> str:
    found = re.search(r'file_hash="(\w+)"', Path(module.__file__).read_text())
    return found[1] if found else ''


def table(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of registered variants, with a default for each variant that has one."""
    sys.path.insert(0, str(ROOT))
    from cls import models

    variants = {name: models.variant(name) for name in models.names()}
    by_reference: dict[str, str] = {}
    for name, variant in variants.items():
        by_reference.setdefault(variant.reference or '', name)
    rows = []
    for fact in facts:
        variant = variant_of(fact['package'], fact['name'], by_reference)
        if variant is None or variant not in variants or not fact['classes']:
            continue
        fact['variant'] = variant
        for field in ('mean', 'std'):
            fact[field] = ' '.join(f'{x:.9g}' for x in fact[field])
        rows.append(fact)
    preferred = ('timm', 'torchvision', 'pytorchcv', 'pretrainedmodels', 'keras')
    for name, variant in variants.items():
        home = (variant.reference or '').partition(':')[0]
        order = [home, *(p for p in preferred if p != home)]
        classes = {int(r['classes']) for r in rows if r['variant'] == name}
        wanted = models.create(name).num_classes
        own = [r for r in rows if r['variant'] == name and int(r['classes']) == wanted]
        own = [r for r in own if r['package'] in order]
        if own:
            best = min(own, key=lambda r: (order.index(r['package']), not r['default']))
            for r in own:
                r['default'] = ''
            best['default'] = 'x'
        elif classes:
            print(f'{name}: no default, only {sorted(classes)} classes', file=sys.stderr)
    for r in rows:
        r['default'] = 'x' if r['default'] == 'x' else ''
    return sorted(rows, key=lambda r: (r['variant'], r['package'], r['name'], r['tag']))


def variant_of(package: str, name: str, by_reference: dict[str, str]) -> str | None:
    """Returns the variant of a package's network: by families, by references, then by ALSO."""
    try:
        family = importlib.import_module(f'cls.weights.families.{package}').FAMILY
    except ImportError:
        family = None
    if family is not None and name in family.networks:
        return family.networks[name]
    own = by_reference.get(f'{package}:{name}') or ALSO.get(package, {}).get(name)
    base, _, data = name.rpartition('_')
    if own or package != 'pytorchcv' or data not in ('cifar100', 'svhn', 'cub'):
        return own
    return variant_of(package, base if data == 'cub' else f'{base}_cifar10', by_reference)


def main(command: str, *arguments: str) -> None:
    if command == 'facts':
        for package in arguments:
            for fact in globals()[package]():
                print(json.dumps(fact))
        return
    facts = [json.loads(line) for path in arguments for line in Path(path).read_text().splitlines()]
    rows = table(facts)
    with FILE.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    print(f'{FILE}: {len(rows)} rows of {len({r["variant"] for r in rows})} variants')


if __name__ == '__main__':
    main(*sys.argv[1:])

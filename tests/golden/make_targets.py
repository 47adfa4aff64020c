"""Writes cls/weights/targets.json.xz: the tensors of packages' networks, for exports to them.

    PYTHON tests/golden/make_targets.py facts timm torchvision > FACTS
    PYTHON tests/golden/make_targets.py facts keras > MORE
    .venv/bin/python tests/golden/make_targets.py table FACTS MORE

The first two need the packages and nothing of `cls`; networks are made without memory where a
package allows it. The third needs `cls`, and keeps one entry for each network that is a variant.
"""

import json
import lzma
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_published

FILE = make_published.ROOT / 'cls' / 'weights' / 'targets.json.xz'
TORCHVISION = 'densenet|efficientnet|googlenet|inception|mnas|mobile|res|shuffle|squeeze|vgg|wide'
CLASSES = -1  # the number of classes in a shape
Tensors = list[tuple[str, str, tuple[int, ...]]]  # name, dtype, shape


def _marked(first: Tensors, other: Tensors) -> Tensors:
    """Returns tensors with CLASSES where networks of two numbers of classes differ."""
    return [
        (name, dtype, tuple(a if a == b else CLASSES for a, b in zip(shape, to, strict=True)))
        for (name, dtype, shape), (_, _, to) in zip(first, other, strict=True)
    ]


def _state(module: Any) -> Tensors:
    return [
        (name, str(value.dtype).removeprefix('torch.'), tuple(value.shape))
        for name, value in module.state_dict().items()
    ]


def timm() -> Iterator[tuple[str, Tensors, list[str]]]:
    import torch
    from timm import create_model, list_models
    from timm.models._registry import _model_to_module

    for name in list_models():
        if _model_to_module[name] in make_published.TIMM:
            with torch.device('meta'):
                both = [_state(create_model(name, num_classes=n)) for n in (1000, 999)]
            yield name, _marked(*both), []


def configs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the names of layers that timm's loader replaces for other classes or channels."""
    from timm import list_models
    from timm.models import get_pretrained_cfg
    from timm.models._registry import _model_to_module

    for name in list_models():
        if _model_to_module[name] in make_published.TIMM and (fields := get_pretrained_cfg(name)):
            yield name, {key: getattr(fields, key) for key in ('first_conv', 'classifier')}


def torchvision() -> Iterator[tuple[str, Tensors, list[str]]]:
    import torch
    from torchvision import models

    for name in models.list_models(module=models):
        if not re.match(TORCHVISION, name):
            continue
        more = {'init_weights': False} if name in ('googlenet', 'inception_v3') else {}
        with torch.device('meta'):
            both = [_state(models.get_model(name, num_classes=n, **more)) for n in (1000, 999)]
            plain = both[0]
            if more:
                plain = _state(models.get_model(name, aux_logits=False, **more))
        kept = {tensor for tensor, _, _ in plain}
        yield name, _marked(*both), [tensor for tensor, _, _ in both[0] if tensor not in kept]


def keras() -> Iterator[tuple[str, Tensors, list[str]]]:
    import keras
    from keras import applications

    for name in dir(applications):
        build = getattr(applications, name)
        if not callable(build) or 'ConvNeXt' in name or 'V2' in name.removeprefix('MobileNetV2'):
            continue
        widths = {'MobileNet': (1.0, 0.75, 0.5, 0.25), 'MobileNetV2': (1.4, 1.0, 0.75, 0.5, 0.35)}
        forms = [(f'{name}_{round(100 * w):03}', {'alpha': w}) for w in widths.get(name, ())]
        if name.startswith('MobileNetV3'):
            forms = [(f'{name}_100', {}), (f'{name}_075', {'alpha': 0.75})]
            forms += [(f'{name}Minimalistic_100', {'minimalistic': True})]
        for full, fields in forms or [(name, {})]:
            both = []
            for classes in (1000, 999):
                keras.backend.clear_session()
                network = build(weights=None, classes=classes, **fields)
                both.append(
                    [
                        (f'{layer.name}/{weight.name}', str(weight.dtype), tuple(weight.shape))
                        for layer in network.layers
                        for weight in layer.weights
                    ]
                )
            yield full, _marked(*both), []


def main(command: str, *arguments: str) -> None:
    if command == 'facts':
        for package in arguments:
            if package == 'timm':
                for name, config in configs():
                    print(json.dumps(['config', name, config]))
            for name, tensors, optional in globals()[package]():
                print(json.dumps([package, name, tensors, optional]), flush=True)
        return
    sys.path.insert(0, str(make_published.ROOT))
    from cls import models

    by_reference: dict[str, str] = {}
    for name in models.names():
        by_reference.setdefault(models.variant(name).reference or '', name)
    entries, layers = {}, {}
    for path in arguments:
        for line in Path(path).read_text().splitlines():
            package, name, tensors, *more = json.loads(line)
            if package == 'config':
                layers[name] = tensors
                continue
            variant = make_published.variant_of(package, name, by_reference)
            if variant in models.names():
                entries[f'{package}:{name}'] = {
                    'variant': variant,
                    'tensors': [f'{n} {t} {" ".join(map(str, s))}'.rstrip() for n, t, s in tensors],
                    'optional': more[0],
                }
                if package == 'timm':
                    entries[f'timm:{name}'] |= layers.get(name) or {}
    text = json.dumps(dict(sorted(entries.items())))
    FILE.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f'{FILE}: {len(entries)} networks, {len(text):,} bytes, {FILE.stat().st_size:,} packed')


if __name__ == '__main__':
    main(*sys.argv[1:])

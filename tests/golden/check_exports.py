"""Compares exported weights with the packages' own networks: strict loading, then logits.

    .venv/bin/python tests/golden/check_exports.py make timm FOLDER [VARIANT ...]
    PYTHON tests/golden/check_exports.py compare timm FOLDER

The first command needs `cls`: random weights, also of the statistics of norms, of the smallest
variant of each system that the package has, or of the named ones, with 13 classes. The second needs
the package (timm, torchvision, keras) and nothing of `cls`; it prints the largest difference of the
logits in units of their deviation, and fails above 1e-4.
"""

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 13
MOST = 45_000_000  # parameters of networks that are not named
STATISTICS = {'mean': np.array([0.485, 0.456, 0.406])}
STATISTICS['variance'] = np.array([0.229, 0.224, 0.225]) ** 2


def random_variables(module: Any, size: int) -> dict[str, Any]:
    """Returns variables with logits of a usual size."""
    from flax import traverse_util

    from cls import models

    rng = np.random.default_rng(0)
    abstract = models.abstract_variables(module, size)
    weights = {name: abstract[name] for name in ('params', 'batch_stats') if name in abstract}
    result = {}
    for path, variable in traverse_util.flatten_dict(weights).items():
        shape = variable.shape
        if np.issubdtype(variable.dtype, np.integer):
            value = np.arange(np.prod(shape)).reshape(shape)
        elif path[-1] == 'kernel':
            value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
        elif path[-1] == 'scale':
            value = 1 + 0.2 * rng.standard_normal(shape)
        elif path[-1] == 'var':
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = 0.1 * rng.standard_normal(shape)
        result[path] = value.astype(variable.dtype)
    return traverse_util.unflatten_dict(result)


def make(package: str, folder: Path, *names: str) -> None:
    """Writes PACKAGE.VARIANT.npz with images, logits and the exported tensors."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from cls import models
    from cls.errors import UserError
    from cls.weights import export, targets

    folder.mkdir(parents=True, exist_ok=True)
    chosen = list(names)
    if not chosen:
        smallest: dict[str, Any] = {}
        for variant in map(models.variant, targets.variants(package)):
            first = smallest.setdefault(variant.system.name, variant)
            if variant.params < first.params:
                smallest[variant.system.name] = variant
        chosen = [v.name for v in smallest.values() if v.params <= MOST]
    for name in chosen:
        variant, target = models.variant(name), targets.of(package, name)
        module = as_the_package_has_it(models.create(name, num_classes=CLASSES), variant, package)
        variables = random_variables(module, variant.input_size)
        try:
            tensors = export.package_tensors(variables, module, variant, target, STATISTICS)
        except UserError as error:
            print(f'{package} {name}: {error}', flush=True)
            continue
        size = variant.input_size if variant.input_size in (32, 299, 331) else 224
        images = np.random.default_rng(1).standard_normal((2, size, size, 3)).astype(np.float32)
        logits = np.asarray(module.apply(variables, images))
        aux = bool(target.optional) and bool(getattr(module, 'aux_head', False))
        facts = {'__images': images, '__logits': logits, '__name': target.name, '__aux': aux}
        if package == 'keras':
            export.write_keras(folder / f'{package}.{name}.h5', tensors)
            tensors = {}
        np.savez(folder / f'{package}.{name}.npz', **facts, **tensors)
        print(f'{package} {name}: {len(tensors)} tensors', flush=True)


def as_the_package_has_it(module: Any, variant: Any, package: str) -> Any:
    """Returns a module with the fields that an import from the package gives it, as an epsilon."""
    from cls.weights import naming

    fields = [n.fields for n in naming.namings(variant) if n.family == package]
    return module.clone(**fields[0]) if fields else module


def compare(package: str, folder: Path) -> None:
    """Loads each file strictly, and compares the logits."""
    worst = 0.0
    for file in sorted(folder.glob(f'{package}.*.npz')):
        content = np.load(file)
        tensors = {name: content[name] for name in content.files if not name.startswith('__')}
        name = str(content['__name'])
        if package == 'keras':
            logits = of_keras(name, file.with_suffix('.h5'), content['__images'])
        else:
            logits = of_torch(package, name, tensors, content)
        own = content['__logits']
        difference = float(np.abs(logits - own).max() / own.std())
        worst = max(worst, difference)
        print(f'{file.stem}: {difference:.1e}', flush=True)
    sys.exit(f'the largest difference is {worst:.1e}' if worst > 1e-4 else 0)


def of_torch(package: str, name: str, tensors: dict[str, np.ndarray], content: Any) -> np.ndarray:
    """Returns the logits of a network of timm or torchvision."""
    import torch

    if package == 'timm':
        import timm

        module = timm.create_model(name, num_classes=CLASSES)
    else:
        import torchvision

        more = {'aux_logits': bool(content['__aux']), 'init_weights': False}
        more = more if name in ('googlenet', 'inception_v3') else {}
        module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **more)
    state: Any = OrderedDict((key, torch.from_numpy(value)) for key, value in tensors.items())
    if name.startswith('mnasnet'):  # as the model card says
        state._metadata = {'': {'version': 2}}
    module.load_state_dict(state, strict=True)
    images = torch.from_numpy(content['__images'].transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return module.eval()(images).numpy()


def of_keras(name: str, weights: Path, images: np.ndarray) -> np.ndarray:
    """Returns the logits of a network of Keras Applications for normalized images."""
    from keras import applications

    build, _, width = name.partition('_')
    fields: dict[str, Any] = {'alpha': int(width) / 100} if width else {}
    if build.endswith('Minimalistic'):
        build, fields = build.removesuffix('Minimalistic'), fields | {'minimalistic': True}
    network = getattr(applications, build)(
        weights=None, classes=CLASSES, classifier_activation=None, **fields
    )
    network.load_weights(str(weights))
    if build.startswith('EfficientNet'):  # the network normalizes
        images = 255 * (images * np.sqrt(STATISTICS['variance']) + STATISTICS['mean'])
    elif build.startswith('MobileNetV3'):
        images = 127.5 * (images + 1)
    return network.predict(images.astype(np.float32), verbose=0)


def main(command: str, package: str, folder: str, *names: str) -> None:
    """Runs a command."""
    (make if command == 'make' else compare)(package, Path(folder), *names)


if __name__ == '__main__':
    main(*sys.argv[1:])

"""Networks of packages and repositories: their files fill variants that compute the same.

The rows are written by make_rows.py from the packages themselves, with weights drawn from the names
in their files. `-m sweep` runs them all, the default tests a small one of each table.
"""

import functools
import importlib
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from compiling import FAST
from golden import keyed, rows

from cls import models, weights

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from forms import mask_of_groups  # noqa: E402

FOLDER = '../weights/families'
PACKAGES = sorted(path.stem for path in HERE.glob('*.npz'))
ROWS = {package: rows.read(f'{FOLDER}/{package}') for package in PACKAGES}
FAMILIES = {p: importlib.import_module(f'cls.weights.families.{p}').FAMILY for p in PACKAGES}
TOLERANCE = 1e-4  # of the logits' spread, in float32
# One network for each table, the cheapest.
DEFAULT = {
    'authors': {
        *('wrn40_1_cifar', 'condensenet50_cifar', 'proxyless_cpu'),
        *('condensenet50_cifar_learned', 'shufflenetv2_0.5x', 'dla60_res2net'),
    },
    'cnn_finetune': {'shufflenetv2_0.5x'},
    'efficientnet_pytorch': {'efficientnet-b0'},
    'image_classifiers': set(),
    'keras_applications': set(),
    'keras_efficientnets': set(),
    'keras': {
        *('resnet50_v1', 'mobilenet_025_tf', 'mobilenetv2_035', 'mobilenetv3_small_100'),
        'tf_efficientnet_b0',
    },
    'pretrainedmodels': {'resnet18', 'squeezenet1_0', 'xception'},
    'repositories': {'mobilenetv3_small_100', 'mobilenetv2_035', 'wrn40_1_cifar'},
    'transformers': {'resnet-18', 'efficientnet-b0', 'mobilenet_v1_0.25', 'mobilenet_v2_0.35'},
}
CASES = [
    pytest.param(package, network, marks=() if network in DEFAULT[package] else pytest.mark.sweep)
    for package in PACKAGES
    for network in ROWS[package]
]


def variant_of(package, network):
    network = network.partition(' of ')[0]
    return models.variant(FAMILIES[package].networks.get(network, network))


def state_dict(row, network):
    """Returns the tensors of a package's file."""
    state = keyed.state_dict(row.tensors, row.gain)
    groups = 8 if 'c8_g8' in network else 4  # of CondenseNet
    return {
        name: mask_of_groups(value, groups) if name.endswith('._mask') else value
        for name, value in state.items()
    }


def table_of(package, variant):
    """Returns the one table of a family for a variant."""
    (table,) = (t for t in FAMILIES[package].tables if re.fullmatch(t.variants, variant.name))
    return table


def renamed(state, table, variant):
    if table.tensors is not None:
        state = table.tensors(state, variant)
    pairs = table.renames(variant) if callable(table.renames) else table.renames
    result = {}
    for name, value in state.items():
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        assert name not in result, f'{name} twice'
        result[name] = value
    return result


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def _logits(model, variables, images):
    return model.apply(variables, images, train=False)


@pytest.mark.parametrize(('package', 'network'), CASES)
def test_files_of_packages_fill_variants_that_compute_the_same(package, network, record_property):
    row, variant = ROWS[package][network], variant_of(package, network)
    table = table_of(package, variant)
    tensors = renamed(state_dict(row, network), table, variant)
    fitted = weights.fit(tensors, variant.name, **table.fields)
    assert not fitted.left_out
    model = models.create(variant.name, **{**table.fields, **fitted.fields})
    images = keyed.images(row.count, row.size, row.channels)
    ours = np.asarray(_logits(model, fitted.variables, images))
    logits = row.logits.reshape(row.count, -1)  # SqueezeNet's may be of shape (N, classes, 1, 1)
    spread = logits.std(axis=1).mean()
    assert ours.shape == logits.shape
    assert np.abs(logits[0] - logits[1]).max() > 0.2 * spread  # images are distinguished
    difference = float(np.abs(ours - logits).max() / spread)
    record_property(f'families/{package}/{network}', difference)
    assert difference < TOLERANCE

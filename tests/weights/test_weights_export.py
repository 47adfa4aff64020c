"""Exports of weights: names and forms of the packages, exact inverses, and refusals."""

import json
import lzma
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from golden import check_exports

from cls import models, weights
from cls.errors import UserError
from cls.weights import export, model_card, targets

CLASSES = 13
CASES = (
    ('mobilenetv3_small_050', 'timm'),  # its reference
    ('squeezenet1_1', 'torchvision'),
    ('mnasnet_b1_050', 'torchvision'),  # other names than those of its reference
    ('mobilenet_025_tf', 'keras'),
)


def exported(name, package, **fields):
    variant, target = models.variant(name), targets.of(package, name)
    module = models.create(name, num_classes=CLASSES, **fields)
    module = check_exports.as_the_package_has_it(module, variant, package)
    variables = check_exports.random_variables(module, variant.input_size)
    return variables, export.package_tensors(variables, module, variant, target), module


def flat(tree):
    return {str(path): np.asarray(leaf) for path, leaf in _leaves(tree)}


def _leaves(tree):
    import jax

    return jax.tree_util.tree_leaves_with_path(tree)


@pytest.mark.parametrize(('name', 'package'), CASES)
def test_an_import_of_the_export_is_equal_bit_by_bit(tmp_path, name, package):
    variables, tensors, module = exported(name, package)
    if package == 'keras':
        export.write_keras(tmp_path / 'model.h5', tensors)
        tensors = weights.read(tmp_path / 'model.h5')
    fitted = weights.fit(tensors, name)
    assert fitted.fields.pop('num_classes') == CLASSES and not fitted.left_out
    assert all(getattr(module, field) == value for field, value in fitted.fields.items())
    again = flat(fitted.variables)
    for path, value in flat(variables).items():
        np.testing.assert_array_equal(value, again.pop(path), strict=True)
    assert not again


@pytest.mark.parametrize(('name', 'package'), [case for case in CASES if case[1] != 'keras'])
def test_names_types_and_shapes_are_those_of_the_package(name, package):
    """The list of the packages' tensors is from another program than the index of exports."""
    file = Path(check_exports.__file__).with_name('published.json.xz')
    table = json.loads(lzma.decompress(file.read_bytes()))
    network = targets.of(package, name).name
    entry = next(e for e in table['entries'] if e[:2] == [package, network])
    numbers = table['networks'][entry[-2]]
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    expected = {table['names'][n]: table['forms'][form] for n, form in pairs}
    _, tensors, _ = exported(name, package)
    assert tensors.keys() == expected.keys()
    for key, (dtype, shape) in expected.items():
        assert str(tensors[key].dtype) == dtype
        assert list(tensors[key].shape) == [CLASSES if n == entry[-1] else n for n in shape]


def forms(tensors, variant):
    """Returns tensors as a table of a family may: split, joined, turned, subtracted, constant."""
    del variant
    return {
        'a': tensors['ab'][:3],
        'b': tensors['ab'][3:],
        'c': np.concatenate([tensors['c1'], tensors['c2']], 1),
        'd': tensors['d'].reshape(2, 3, 4).transpose(2, 0, 1),
        'mean': tensors['mean'].astype(np.float32) - tensors['conv.bias'],
        'scale': np.ones_like(tensors['mean']),
    }


class Target:
    package, name = 'keras', 'network'


def test_conversions_of_forms_are_inverted():
    shapes = {'ab': (7, 2), 'c1': (2, 3), 'c2': (2, 1), 'd': (6, 4), 'mean': (5,)}
    shapes['conv.bias'] = (5,)
    rng = np.random.default_rng(0)
    foreign = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    foreign['conv.bias'][:] = 0
    own = forms(foreign, None)
    result = export._by_places(own, shapes, lambda x: forms(x, None), Target)
    assert result.keys() == foreign.keys()
    for name, value in foreign.items():
        np.testing.assert_array_equal(result[name], value)


def test_large_tensors_are_inverted_in_parts(monkeypatch):
    """Places above the base need several digits."""
    monkeypatch.setattr(export, '_BASE', 8)
    monkeypatch.setattr(export, '_LARGE', 10)
    foreign = {'x': np.arange(60, dtype=np.float32).reshape(5, 12), 'y': np.ones(3, np.float32)}

    def turned(tensors):
        return {'x': tensors['x'].T, 'y': tensors['y']}

    shapes = {name: value.shape for name, value in foreign.items()}
    result = export._by_places(turned(foreign), shapes, turned, Target)
    np.testing.assert_array_equal(result['x'], foreign['x'])
    np.testing.assert_array_equal(result['y'], foreign['y'])


def test_a_dropped_part_is_refused():
    shapes = {'x': (4, 2)}
    with pytest.raises(UserError, match='x has no tensor here'):
        own = {'x': np.zeros((3, 2), np.float32)}
        export._by_places(own, shapes, lambda t: {'x': t['x'][:3]}, Target)


def test_values_without_a_tensor_are_refused():
    """Keras's Inceptions have norms without a scale."""
    with pytest.raises(UserError, match='scale has values'):
        export._compare({'scale': np.full(3, 2.0)}, {'scale': np.ones(3)}, Target)


def test_another_field_than_the_packages_is_refused():
    """torchvision's MobileNetV3 has another epsilon than timm's."""
    variant = models.variant('mobilenetv3_small_100')
    target = targets.of('timm', variant.name)
    module = models.create(variant.name, num_classes=CLASSES)
    variables = check_exports.random_variables(module, 224)
    with pytest.raises(UserError, match='epsilon=0.001, but timm .* has 1e-05'):
        export.package_tensors(variables, module, variant, target)


def test_auxiliary_heads_are_optional():
    target = targets.of('torchvision', 'googlenet_bn')
    assert target.optional and all(name.startswith('aux') for name in target.optional)


def test_the_index_has_the_networks_of_three_packages():
    for package in ('timm', 'torchvision', 'keras'):
        assert len(targets.variants(package)) > 20
    assert targets.of('keras', 'resnet20_cifar') is None
    assert targets.of('timm', 'resnet50').layers == {'first_conv': 'conv1', 'classifier': 'fc'}


@pytest.mark.parametrize('resize', range(224, 300))
def test_fractions_of_the_crop_give_the_same_size_in_timm(resize):
    assert math.floor(224 / model_card.crop_of(224, resize)) == resize


def test_weights_of_keras_have_the_order_of_its_layers(tmp_path):
    tensors = {'b/kernel': np.zeros(2), 'b/bias': np.ones(1), 'a/k': np.ones(3)}
    export.write_keras(tmp_path / 'x.h5', tensors)
    with h5py.File(tmp_path / 'x.h5') as file:
        assert list(file.attrs['layer_names']) == ['b', 'a']
        assert list(file['b'].attrs['weight_names']) == ['b/kernel:0', 'b/bias:0']
        assert np.array_equal(file['b']['b/bias:0'], np.ones(1))

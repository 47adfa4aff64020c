"""From torch names and layouts to Flax variables, and the errors when they do not fit."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from cls import models
from cls.errors import UserError
from cls.weights import convert as convert_module
from cls.weights.convert import convert, torch_name
from cls.weights.fitting import fit, from_torch


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 5), name='conv1')(x)
        x = nn.Conv(6, (3, 3), feature_group_count=3, use_bias=False, name='conv2')(x)
        return nn.BatchNorm(use_running_average=True, name='bn')(x)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Block(name='layer1.0')(x)
        slope = self.param('slope', nn.initializers.ones, (6,))
        return nn.Dense(2, name='fc')(jnp.where(x > 0, x, slope * x).mean((1, 2)))


RENAMES = ((r'^slope$', 'act.weight'),)
# The state dict of Net in PyTorch: name -> shape.
SHAPES = {
    'layer1.0.conv1.weight': (6, 4, 3, 5),
    'layer1.0.conv1.bias': (6,),
    'layer1.0.conv2.weight': (6, 2, 3, 3),
    'layer1.0.bn.weight': (6,),
    'layer1.0.bn.bias': (6,),
    'layer1.0.bn.running_mean': (6,),
    'layer1.0.bn.running_var': (6,),
    'act.weight': (6,),
    'fc.weight': (2, 6),
    'fc.bias': (2,),
}


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    variance = 'layer1.0.bn.running_var'
    return values | {
        variance: np.abs(values[variance]),
        'layer1.0.bn.num_batches_tracked': np.array(3),
    }


@pytest.fixture(scope='module')
def abstract():
    return jax.eval_shape(Net().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 4), 'f'))


def _message(*args) -> str:
    with pytest.raises(UserError) as error:
        convert(*args)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_names():
    assert torch_name(('params', 'layer1', '0', 'conv1', 'kernel')) == 'layer1.0.conv1.weight'
    assert torch_name(('params', 'bn1', 'scale')) == 'bn1.weight'
    assert torch_name(('batch_stats', 'bn1', 'mean')) == 'bn1.running_mean'
    assert torch_name(('batch_stats', 'bn1', 'var')) == 'bn1.running_var'
    assert torch_name(('params', 'slope')) == 'slope'
    renames = ((r'^bn', 'norm'), (r'norm(\d)', lambda match: f'n.{int(match[1]) + 1}'))
    assert torch_name(('params', 'bn1', 'scale'), renames) == 'n.2.weight'


def test_the_tree_is_the_models_and_every_value_in_its_place(tensors, abstract):
    variables = convert(tensors, abstract, RENAMES)
    assert jax.tree.structure(variables) == jax.tree.structure(abstract)
    leaves = zip(jax.tree.leaves(variables), jax.tree.leaves(abstract), strict=True)
    for leaf, variable in leaves:
        assert isinstance(leaf, np.ndarray) and leaf.dtype == np.float32
        assert leaf.shape == variable.shape and leaf.flags.c_contiguous
    block = variables['params']['layer1.0']
    np.testing.assert_array_equal(
        block['conv1']['kernel'], np.einsum('oihw->hwio', tensors['layer1.0.conv1.weight'])
    )
    np.testing.assert_array_equal(
        block['conv2']['kernel'], np.einsum('oihw->hwio', tensors['layer1.0.conv2.weight'])
    )
    np.testing.assert_array_equal(variables['params']['fc']['kernel'], tensors['fc.weight'].T)
    np.testing.assert_array_equal(block['bn']['scale'], tensors['layer1.0.bn.weight'])
    stats = variables['batch_stats']['layer1.0']['bn']
    np.testing.assert_array_equal(stats['mean'], tensors['layer1.0.bn.running_mean'])
    np.testing.assert_array_equal(stats['var'], tensors['layer1.0.bn.running_var'])
    np.testing.assert_array_equal(variables['params']['slope'], tensors['act.weight'])
    Net().apply(variables, jnp.ones((1, 8, 8, 4)))


def test_arrays_are_the_callers_own_whatever_the_type(tensors, abstract):
    for dtype in (np.float64, np.float16, ml_dtypes.bfloat16):
        cast = {n: t.astype(dtype) if t.ndim else t for n, t in tensors.items()}
        kernel = convert(cast, abstract, RENAMES)['params']['fc']['kernel']
        np.testing.assert_array_equal(kernel, cast['fc.weight'].T.astype(np.float32))
    bias = convert(tensors, abstract, RENAMES)['params']['fc']['bias']
    assert not np.shares_memory(bias, tensors['fc.bias'])


def test_a_missing_tensor(tensors, abstract):
    del tensors['fc.bias']
    message = _message(tensors, abstract, RENAMES)
    assert message == 'the weights do not fit the model: missing of 10 tensors: 1 (fc.bias)'


def test_a_tensor_too_many(tensors, abstract):
    tensors['head.scale'] = np.ones(3)
    message = _message(tensors, abstract, RENAMES)
    assert message.endswith('unused of 12 tensors: 1 (head.scale)')


def test_a_counter_without_its_norm_is_not_knowingly_unused(tensors, abstract):
    tensors['layer9.bn.num_batches_tracked'] = np.array(1)
    assert '1 (layer9.bn.num_batches_tracked)' in _message(tensors, abstract, RENAMES)


def test_another_name_shows_on_both_sides_the_nearest_first(tensors, abstract):
    for part in ('weight', 'bias'):
        tensors[f'fc1.{part}'] = tensors.pop(f'fc.{part}')
    tensors['a.totally_different_thing'] = np.ones(1)
    message = _message(tensors, abstract, RENAMES)
    assert 'fc.weight (near the unused fc1.weight)' in message
    assert '(fc1.weight, fc1.bias, a.totally_different_thing)' in message


def test_different_shapes_are_given_in_torchs_layout(tensors, abstract):
    tensors['fc.weight'] = np.ones((10, 6), np.float32)
    tensors['layer1.0.conv1.weight'] = np.ones((6, 4, 5, 3), np.float32)
    tensors['fc.bias'] = np.ones((2, 1), np.float32)
    message = _message(tensors, abstract, RENAMES)
    assert 'different shapes: 3 (' in message
    assert 'fc.weight is (10, 6), the model wants (2, 6)' in message
    assert 'layer1.0.conv1.weight is (6, 4, 5, 3), the model wants (6, 4, 3, 5)' in message
    assert 'fc.bias is (2, 1), the model wants (2,)' in message


def test_integers_are_no_weights(tensors, abstract):
    tensors['fc.bias'] = np.array([1, 2])
    assert 'not floating point: 1 (fc.bias is int64)' in _message(tensors, abstract, RENAMES)


def test_indices_and_masks_keep_their_types():
    abstract = {
        'batch_stats': {
            'index': jax.ShapeDtypeStruct((2,), jnp.int32),
            'mask': jax.ShapeDtypeStruct((2,), jnp.bool_),
        }
    }
    tensors = {'index': np.array([3, 1]), 'mask': np.array([True, False])}
    stats = convert(tensors, abstract)['batch_stats']
    assert (stats['index'].dtype, stats['mask'].dtype) == (np.int32, np.bool_)
    np.testing.assert_array_equal(stats['index'], [3, 1])
    np.testing.assert_array_equal(stats['mask'], [True, False])
    message = _message({name: np.ones(2, np.float32) for name in tensors}, abstract)
    assert 'not integers: 1 (index is float32); not booleans: 1 (mask is float32)' in message


def test_renames_that_lead_two_variables_to_one_tensor(tensors, abstract):
    message = _message(tensors, abstract, (*RENAMES, (r'^fc\.bias', 'act.weight')))
    assert 'wanted more than once: 1 (act.weight for ' in message
    assert 'params/fc/bias' in message and 'params/slope' in message
    assert 'unused of 11 tensors: 1 (fc.bias)' in message


def test_all_problems_at_once_in_a_readable_number(abstract):
    others = {f'other{i}.weight': np.ones(1, np.float32) for i in range(1000)}
    message = _message(others | {'fc.weight': np.ones(3, np.int64)}, abstract, RENAMES)
    assert 'missing of 10 tensors: 9 (' in message
    assert 'unused of 1001 tensors: 1000 (' in message and 'and 994 more' in message
    assert 'fc.weight is (3,)' in message and 'fc.weight is int64' in message
    assert len(message) < 2000


def test_no_tensors_at_all(abstract):
    assert 'missing of 10 tensors: 10 (' in _message({}, abstract, RENAMES)


def test_collections_that_are_no_weights_are_left_out(tensors, abstract):
    sown = {**abstract, 'aux_logits': {'head': (jax.ShapeDtypeStruct((1, 2), 'f'),)}}
    assert set(convert(tensors, sown, RENAMES)) == {'params', 'batch_stats'}


def test_a_registered_model_and_its_overrides():
    shapes = {'conv1.weight': (64, 3, 7, 7)}
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(UserError, match=r'^resnet18: .*missing of 102 tensors: 101 \('):
        from_torch(tensors, 'resnet18')
    tensors = {'fc.weight': np.ones((1000, 512), np.float32)}
    with pytest.raises(UserError, match=re.escape('the model wants (7, 512)')):
        from_torch(tensors, 'resnet18', num_classes=7)
    with pytest.raises(UserError, match='resnet18'):
        from_torch({}, 'resnet81')


def test_a_file_of_other_classes_or_heads_says_what_to_set():
    variant = models.variant('resnet20_cifar')
    shapes = convert_module.shapes(models.create(variant.name, num_classes=7), variant)
    seven = {f'module.{name}': np.ones(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(UserError, match=r'the model wants \(10, 64\).*fits with num_classes=7$'):
        from_torch(seven, variant.name)
    assert from_torch(seven, variant.name, num_classes=7)['params']['fc']['bias'].shape == (7,)
    with pytest.raises(UserError, match='fits with num_classes=7$'):
        fit(seven, variant.name, num_classes=5)
    assert fit(seven, variant.name).fields == {'num_classes': 7}
    del seven['module.conv1.weight']
    with pytest.raises(UserError, match=r'missing of 97 tensors: 1 \(conv1.weight\)$') as caught:
        fit(seven, variant.name, source='net.pth')
    assert str(caught.value).startswith('net.pth: resnet20_cifar: ')


def test_a_model_of_the_users_may_compute_sizes_from_the_number_of_classes(monkeypatch):
    class Mine(nn.Module):
        num_classes: int = 10

        @nn.compact
        def __call__(self, images, train=False):
            x = nn.Dense(4 * self.num_classes, name='hidden')(images.mean((1, 2)))
            return nn.Dense(self.num_classes, name='fc')(x)

    models.names()  # imports all that register themselves
    monkeypatch.setattr(models.registry, '_VARIANTS', dict(models.registry._VARIANTS))
    system = models.System('Mine', 'a model', '', '', None, None)
    names = {'renames': [['^hidden', 'proj']], 'old_names': [['^first', 'proj']]}  # lists, too
    models.register(models.Variant('mine', system, Mine, {}, 8, 0, 0, **names))
    shapes = {'first.weight': (28, 3), 'first.bias': (28,), 'fc.weight': (7, 28), 'fc.bias': (7,)}
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    filled = from_torch(tensors, 'mine', num_classes=7)['params']
    assert jax.tree.map(np.shape, filled) == {
        'hidden': {'kernel': (3, 28), 'bias': (28,)},
        'fc': {'kernel': (28, 7), 'bias': (7,)},
    }


def test_a_1x1_convolution_fills_a_linear_layer(tensors, abstract):
    flat = convert(tensors, abstract, RENAMES)['params']['fc']['kernel']
    tensors['fc.weight'] = tensors['fc.weight'][:, :, None, None]
    np.testing.assert_array_equal(
        convert(tensors, abstract, RENAMES)['params']['fc']['kernel'], flat
    )
    tensors['fc.weight'] = tensors['fc.weight'][:, :5]
    assert 'fc.weight is (2, 5, 1, 1)' in _message(tensors, abstract, RENAMES)

"""Small ResNets: gradients, modes, features, and the parameter-free shortcut."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from cls import models
from cls.models.registry.init import init
from cls.nn.residual import option_a

RNG = np.random.default_rng(4)
SMALL = {
    'cifar': ('resnet20_cifar', {'stage_sizes': (1, 1, 1), 'widths': (4, 8, 16)}, 16),
    'basic': ('resnet18', {'stage_sizes': (1, 1), 'widths': (4, 8)}, 32),
    'bottleneck': ('resnet50', {'stage_sizes': (1, 1), 'widths': (4, 8)}, 32),
    'v1': ('resnet50_v1', {'stage_sizes': (1, 1), 'widths': (4, 8)}, 32),
}


@functools.cache
def setup(kind):
    """Returns (model, variables, a batch of 8 images, jitted train, jitted evaluation)."""
    name, fields, size = SMALL[kind]
    model = models.create(name, num_classes=5, **fields)
    images = RNG.standard_normal((8, size, size, 3)).astype(np.float32)
    weights = RNG.standard_normal((8, 5)).astype(np.float32)

    @functools.partial(jax.jit, compiler_options=FAST)
    def train(variables, images):
        def loss(params):
            logits, updated = model.apply(
                {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
            )
            return jnp.sum(logits * weights), (logits, updated['batch_stats'])

        gradients, out = jax.grad(loss, has_aux=True)(variables['params'])
        return gradients, *out

    evaluate = jax.jit(functools.partial(models.features, model), compiler_options=FAST)
    return model, init(model, 0, size), images, train, evaluate


@pytest.mark.parametrize(
    'kind', ['cifar', 'bottleneck', 'v1', pytest.param('basic', marks=pytest.mark.sweep)]
)
def test_every_parameter_gets_a_gradient(kind):
    _, variables, images, train, _ = setup(kind)
    gradients, logits, stats = train(variables, images)
    assert jax.tree.structure(gradients) == jax.tree.structure(variables['params'])
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.all(np.isfinite(g)), path
        assert np.any(g != 0), path
    assert np.all(np.isfinite(logits))
    old_and_new = zip(*map(jax.tree.leaves, (variables['batch_stats'], stats)), strict=True)
    assert all(np.any(old != new) for old, new in old_and_new)


@pytest.mark.parametrize(('kind', 'sizes'), [('cifar', (16, 16, 8, 4)), ('v1', (8, 8, 4))])
def test_features_and_logits(kind, sizes):
    model, variables, images, _, evaluate = setup(kind)
    features = evaluate(variables, images)
    expansion = 4 if kind == 'v1' else 1
    channels = (model.widths[0], *(w * expansion for w in model.widths))
    names = ('stem', *(f'stage{i + 1}' for i in range(len(model.widths))))
    shapes = {n: (8, s, s, c) for n, s, c in zip(names, sizes, channels, strict=True)}
    shapes['pre_logits'] = (8, channels[-1])
    assert {name: x.shape for name, x in features.items()} == shapes
    last = np.asarray(features[names[-1]], np.float64)
    assert last.min() >= 0
    np.testing.assert_allclose(features['pre_logits'], last.mean((1, 2)), rtol=1e-5, atol=1e-6)
    logits = jax.jit(model.apply, compiler_options=FAST)(variables, images)
    fc = variables['params']['fc']
    expected = np.asarray(features['pre_logits']) @ fc['kernel'] + fc['bias']
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_only_training_depends_on_the_rest_of_the_batch():
    _, variables, images, train, evaluate = setup('cifar')
    other = images.copy()
    other[4:] *= 3
    one, two = (np.asarray(evaluate(variables, x)['pre_logits']) for x in (images, other))
    np.testing.assert_allclose(one[:4], two[:4], rtol=1e-5, atol=1e-6)
    assert np.abs(one[4:] - two[4:]).max() > 1e-2
    one, two = (np.asarray(train(variables, x)[1]) for x in (images, other))
    assert np.abs(one[:4] - two[:4]).max() > 1e-2


def test_evaluation_with_the_batch_statistics_equals_training():
    model, variables, images, train, _ = setup('cifar')
    _, trained, updated = train(variables, images)
    # momentum 0.9, and the running variance is unbiased over 8 x size x size pixels.
    batch = jax.tree.map(lambda new, old: (new - 0.9 * old) * 10, updated, variables['batch_stats'])

    def biased(path, x):
        size = {'layer2': 8, 'layer3': 4}.get(path[0].key, 16)
        n = 8 * size * size
        return x * (n - 1) / n if path[-1].key == 'var' else x

    batch = jax.tree_util.tree_map_with_path(biased, batch)
    apply = jax.jit(model.apply, compiler_options=FAST)
    logits = apply({**variables, 'batch_stats': batch}, images)
    np.testing.assert_allclose(logits, trained, rtol=1e-3, atol=1e-3)
    assert np.abs(apply(variables, images) - trained).max() > 1e-2


@pytest.mark.parametrize(('channels', 'width', 'strides'), [(4, 8, 2), (4, 9, 2), (4, 4, 1)])
def test_option_a(channels, width, strides):
    x = RNG.standard_normal((2, 7, 6, channels)).astype(np.float32)
    out = option_a(SimpleNamespace(width=width, expansion=1, strides=strides), x)
    before = (width - channels) // 2
    expected = np.zeros((2, -(-7 // strides), -(-6 // strides), width), np.float32)
    for i in range(expected.shape[1]):
        for j in range(expected.shape[2]):
            expected[:, i, j, before : before + channels] = x[:, i * strides, j * strides]
    np.testing.assert_array_equal(out, expected)


def test_stride_of_a_bottleneck():
    """v1.5 has the stride in the 3x3 convolution, the paper's form in the first 1x1."""

    def heights(name):
        model = models.create(name, stage_sizes=(1, 1, 1, 1), widths=(4, 4, 8, 8))
        _, captured = jax.eval_shape(
            lambda v, x: model.apply(v, x, capture_intermediates=True, mutable=['intermediates']),
            models.abstract_variables(model, 64),
            jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
        )
        block = captured['intermediates']['layer2']['0']
        return [block[f'conv{i}']['__call__'][0].shape[1] for i in (1, 2, 3)]

    assert heights('resnet50') == [16, 8, 8]
    assert heights('resnet50_v1') == [8, 8, 8]

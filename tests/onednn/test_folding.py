"""Inference with batch norms folded into convolutions of the extension."""

import functools
import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from cls import models
from cls.nn import folding
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm


class Net(nn.Module):
    """Norms after a convolution, after a sum, and twice; a convolution that is used twice."""

    @nn.compact
    def __call__(self, x, train=False):
        norm = functools.partial(BatchNorm, train)
        x = nn.relu(norm(name='bn1')(Conv(8, 3, name='conv1')(x)))
        shortcut = norm(name='bn2')(Conv(8, 1, name='conv2')(x))
        x = nn.relu6(shortcut + norm(name='bn3')(Conv(8, 3, name='conv3', use_bias=True)(x)))
        x = x + nn.swish(norm(name='bn4')(Conv(8, 3, groups=2, name='conv4')(x)))
        x = nn.hard_swish(norm(name='bn6')(norm(name='bn5')(Conv(8, 3, name='conv5')(x))))
        twice = Conv(8, 3, name='conv6')(x)
        x = norm(name='bn7')(twice) + nn.relu(twice)
        return nn.relu(norm(name='bn8')(x)).mean((1, 2))


def variables_of(model, images):
    """Returns variables with statistics and scales that are not those of the start."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    rng = np.random.default_rng(0)

    def value(path, x):
        name = path[-1].key
        if name == 'kernel':
            deviation = math.sqrt(2 / math.prod(x.shape[:-1]))
            return jnp.asarray(deviation * rng.standard_normal(x.shape), jnp.float32)
        low, high = (0.5, 2) if name in ('var', 'scale') else (-0.5, 0.5)
        return jnp.asarray(rng.uniform(low, high, x.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(value, shapes)


def both(model, images):
    """Returns the results of a model and of its folded form, and the program of the latter."""
    variables = variables_of(model, images)
    plain = functools.partial(model.apply, train=False)
    folded = jit(folding.folded(plain)).lower(variables, images).compile()
    return jit(plain)(variables, images), folded(variables, images), folded.as_text()


def test_each_pattern_gives_the_same_numbers(one_device):
    images = jnp.asarray(np.random.default_rng(1).standard_normal((2, 9, 9, 4)), jnp.float32)
    plain, folded, text = both(Net(), images)
    np.testing.assert_allclose(folded, plain, rtol=1e-5, atol=1e-5)
    calls = [text.count(f'custom_call_target="{n}"') for n in ('cls_conv_inference', 'cls_conv')]
    assert calls == [5, 1]


@pytest.mark.parametrize(
    'name', ['resnet18', pytest.param('mobilenetv2_100', marks=pytest.mark.sweep)]
)
def test_networks_agree_and_have_no_other_pass_over_images(one_device, name):
    images = jnp.asarray(np.random.default_rng(1).standard_normal((2, 32, 32, 3)), jnp.float32)
    plain, folded, text = both(models.create(name), images)
    np.testing.assert_allclose(folded, plain, rtol=1e-4, atol=1e-4 * abs(plain).max())
    assert 'custom_call_target="cls_conv"' not in text
    assert text.count('custom_call_target="cls_conv_inference"') >= 20


@pytest.mark.parametrize(
    ('groups', 'window', 'inputs', 'outputs', 'operands'),
    [(1, 3, 8, 8, 5), (1, 3, 4, 8, 4), (2, 3, 16, 16, 4), (2, 1, 4, 8, 5), (8, 3, 8, 8, 5)],
)
def test_additions_go_where_onednn_is_fast(one_device, groups, window, inputs, outputs, operands):
    class Adds(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            y = BatchNorm(train)(Conv(outputs, window, groups=groups)(x))
            return nn.relu(y + x.mean((1, 2, 3), keepdims=True) * jnp.ones_like(y))

    images = np.random.default_rng(1).standard_normal((2, 7, 7, inputs), np.float32)
    plain, folded, text = both(Adds(), images)
    np.testing.assert_allclose(folded, plain, rtol=1e-4, atol=1e-5)
    (call,) = (line for line in text.splitlines() if '"cls_conv_inference"' in line)
    arguments = call.split('custom-call(')[1].split('), custom_call_target')[0]
    assert len(arguments.split('%')) - 1 == operands


def test_no_scaled_kernels_are_kept(one_device):
    """The extension scales a kernel as it reorders it, into memory that all kernels share."""

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            for i in range(4):
                x = BatchNorm(train, name=f'bn{i}')(Conv(128, 3, name=f'conv{i}')(x))
            return x

    images = jnp.ones((1, 3, 3, 128))
    variables = variables_of(Deep(), images)
    folded = jax.jit(folding.folded(functools.partial(Deep().apply, train=False)))
    memory = folded.lower(variables, images).compile().memory_analysis()
    assert memory.temp_size_in_bytes < variables['params']['conv0']['kernel'].nbytes


def test_bfloat16_and_several_devices_are_not_folded(extension, monkeypatch):  # noqa: F811
    images = jnp.ones((2, 9, 9, 4))
    net = Net()
    variables = variables_of(net, images)
    plain = functools.partial(net.apply, train=False)
    jax.clear_caches()
    text = jax.jit(folding.folded(plain)).lower(variables, images).as_text()
    assert 'cls_conv' not in text  # these tests have eight devices
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    jax.clear_caches()
    low = functools.partial(BatchNorm, False, dtype=jnp.bfloat16)()
    x = jnp.ones((2, 5, 5, 3), jnp.bfloat16)
    stats = low.init(jax.random.key(0), x)
    text = jax.jit(folding.folded(low.apply)).lower(stats, x).as_text()
    assert 'scale_and_shift' not in text
    jax.clear_caches()


def _leaky(y):
    return jnp.where(y > 0, y, 0.1 * y)


def scaled_twice(x, factor, shift):
    return 2 * x * factor + shift


@pytest.mark.parametrize('name', ['relu', 'relu6', 'silu', 'hard_silu', 'scale_and_shift'])
def test_functions_of_a_model_with_the_names_of_jax_keep_their_values(one_device, name):
    """They are known by their programs."""
    function = scaled_twice if name == 'scale_and_shift' else _leaky
    own = jax.jit(types.FunctionType(function.__code__, globals(), name))
    more = (jnp.full(8, 0.5), jnp.ones(8)) if name == 'scale_and_shift' else ()

    class Own(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return own(BatchNorm(train, name='bn')(Conv(8, 3, name='conv')(x)), *more)

    images = jnp.asarray(np.random.default_rng(1).standard_normal((2, 9, 9, 4)), jnp.float32)
    plain, folded, text = both(Own(), images)
    np.testing.assert_allclose(folded, plain, rtol=1e-5, atol=1e-5)
    assert 'custom_call_target="cls_conv_inference"' in text


@pytest.mark.parametrize('kind', ['relu', 'relu6', 'silu', 'hard_silu'])
@pytest.mark.parametrize('channels', [4, 16])
def test_nan_stays_nan(one_device, kind, channels):
    """A network with broken statistics must not seem to work."""

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return getattr(jax.nn, kind)(
                BatchNorm(train, name='bn')(Conv(channels, 3, name='conv')(x))
            )

    layer, images = Layer(), jnp.ones((2, 12, 12, channels))
    variables = variables_of(layer, images)
    variables['batch_stats']['bn']['var'] = jnp.full(channels, jnp.nan).at[0].set(1.0)
    folded = jit(folding.folded(functools.partial(layer.apply, train=False)))(variables, images)
    assert not np.isnan(folded[..., 0]).any()
    assert np.isnan(folded[..., 1:]).all()


def test_narrow_variables_are_folded_in_float32(one_device):
    images = jnp.asarray(np.random.default_rng(1).standard_normal((2, 9, 9, 4)), jnp.float32)
    net = Net()
    narrow = jax.tree.map(lambda x: x.astype(jnp.float16), variables_of(net, images))
    plain = functools.partial(net.apply, train=False)
    folded = jit(folding.folded(plain))(narrow, images)
    np.testing.assert_allclose(folded, jit(plain)(narrow, images), rtol=1e-4, atol=1e-4)

"""GoogLeNet: its auxiliary heads, outside the golden rows, and the place of its normalization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from golden import keyed, rows
from jax import lax

from cls import models, weights
from cls.models.registry.init import init

RNG = np.random.default_rng(12)
NARROW = (4, 4, 4, 4, 4, 4)
SMALL = {
    'stem_features': (4, 4, 8),
    'stages': ((NARROW,), (NARROW, NARROW, NARROW)),
    'num_classes': 5,
    'dropout_rate': 0.0,
    'aux_dropout_rate': 0.0,
}
# The part of torchvision's state dict that its googlenet(aux_logits=False) lacks.
HEADS = {
    f'{head}.{name}': shape
    for head, channels in (('aux1', 512), ('aux2', 528))
    for name, shape in {
        'conv.conv.weight': (128, channels, 1, 1),
        **{f'conv.bn.{part}': (128,) for part in ('weight', 'bias', 'running_mean', 'running_var')},
        'conv.bn.num_batches_tracked': (),
        'fc1.weight': (1024, 2048),
        'fc1.bias': (1024,),
        'fc2.weight': (1000, 1024),
        'fc2.bias': (1000,),
    }.items()
}


def test_a_state_dict_of_torchvision_is_read_with_its_heads():
    row = rows.read('googlenet')['torchvision:googlenet']
    state_dict = keyed.state_dict({**row.tensors, **HEADS})
    params = weights.from_torch(state_dict, 'googlenet_bn')['params']
    assert sum(x.size for x in jax.tree.leaves(params)) == 13_004_888  # torchvision's own count
    np.testing.assert_array_equal(
        params['aux2']['fc1']['kernel'], state_dict['aux2.fc1.weight'].transpose()
    )


@functools.cache
def train(name, size):
    """Returns (model, variables, images, a function of the outputs' weights to the gradients)."""
    model = models.create(name, **SMALL)
    images = RNG.standard_normal((4, size, size, 3)).astype(np.float32)
    variables = init(model, 0, size)

    @jit
    def gradients(weights):
        def loss(params):
            logits, updated = model.apply(
                {**variables, 'params': params},
                images,
                train=True,
                mutable=['batch_stats', 'aux_logits'],
                rngs={'dropout': jax.random.key(0)},
            )
            heads = {name: logits for name, (logits,) in updated['aux_logits'].items()}
            outputs = (logits, heads['aux1_logits'], heads['aux2_logits'])
            return sum(w * jnp.sum(x**2) for w, x in zip(weights, outputs, strict=True)), outputs

        return jax.grad(loss, has_aux=True)(variables['params'])

    return model, variables, images, gradients


@pytest.mark.parametrize(
    'name', ['googlenet', pytest.param('googlenet_bn', marks=pytest.mark.sweep)]
)
def test_each_head_learns_from_its_own_logits_and_reaches_the_modules_before_it(name):
    *_, gradients = train(name, 32)
    reached = {
        'aux1': {'aux1', 'inception4a', 'inception3a', 'conv1', 'conv2', 'conv3'},
        'aux2': {'aux2', 'inception4b', 'inception4a', 'inception3a', 'conv1', 'conv2', 'conv3'},
    }
    for head, weight in (('aux1', (0.0, 1.0, 0.0)), ('aux2', (0.0, 0.0, 1.0))):
        by_module, outputs = gradients(jnp.asarray(weight))
        assert all(x.shape == (4, 5) and x.dtype == jnp.float32 for x in outputs)
        with_gradient = {
            module
            for module, grads in by_module.items()
            if any(map(np.any, jax.tree.leaves(grads)))
        }
        assert with_gradient == reached[head]


def test_a_head_is_two_linear_layers_on_a_projected_and_flattened_map():
    """The paper's first head, in NumPy, on a 7x7 map."""
    model, variables, _, _ = train('googlenet', 112)
    images = RNG.standard_normal((2, 112, 112, 3)).astype(np.float32)

    @jit
    def run(images):
        _, updated = model.apply(
            variables,
            images,
            train=True,
            capture_intermediates=lambda module, _: module.name == 'inception4a',
            mutable=['aux_logits', 'intermediates'],
            rngs={'dropout': jax.random.key(0)},
        )
        return updated['intermediates']['inception4a']['__call__'][0], updated['aux_logits']

    inner, aux_logits = run(images)
    x, head = np.asarray(inner, np.float64), variables['params']['aux1']
    assert x.shape == (2, 7, 7, 16)
    x = x[:, :5, :5].mean((1, 2))  # 5x5 with stride 3 fits once into seven pixels
    x = np.maximum(x @ head['conv']['conv']['kernel'][0, 0] + head['conv']['conv']['bias'], 0)
    x = np.maximum(x @ head['fc1']['kernel'] + head['fc1']['bias'], 0)
    expected = x @ head['fc2']['kernel'] + head['fc2']['bias']
    np.testing.assert_allclose(aux_logits['aux1_logits'][0], expected, rtol=1e-4, atol=1e-5)


def test_the_stem_normalizes_after_the_first_pool_and_before_the_second():
    """Pixels are as large as Caffe's, as alpha assumes."""
    model, variables, images, _ = train('googlenet', 32)
    params = variables['params']
    images = 400 * images

    def conv(x, name, strides=1):
        unit = params[name]['conv']
        p = unit['kernel'].shape[0] // 2
        dimensions = ('NHWC', 'HWIO', 'NHWC')
        x = lax.conv_general_dilated(
            x, unit['kernel'], (strides,) * 2, [(p, p)] * 2, dimension_numbers=dimensions
        )
        return jnp.maximum(x + unit['bias'], 0)

    def pool(x):  # ceil mode pads an even size by one pixel at the end
        ends = [(0, 0), (0, 1), (0, 1), (0, 0)]
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ends)

    def lrn(x):
        channels = np.arange(x.shape[-1])
        near = (abs(channels[:, None] - channels) <= 2).astype(np.float32)
        return x / (1 + 1e-4 / 5 * (x**2 @ near)) ** 0.75

    @jit
    def both(images):
        stem = models.features(model, variables, images)['stem']
        restated = pool(lrn(conv(conv(lrn(pool(conv(images, 'conv1', 2))), 'conv2'), 'conv3')))
        plain = pool(conv(conv(pool(conv(images, 'conv1', 2)), 'conv2'), 'conv3'))
        return stem, restated, plain

    stem, restated, plain = both(images)
    np.testing.assert_allclose(stem, restated, rtol=1e-4, atol=1e-4)
    assert np.abs(stem - plain).max() > 0.1 * np.abs(plain).max()

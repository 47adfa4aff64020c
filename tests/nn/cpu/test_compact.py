"""The compact form of layers on small images: the same numbers from fewer operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls.nn.conv import conv
from cls.nn.cpu import compact
from cls.nn.pool import avg_pool


def more(*values):
    return pytest.param(*values, marks=pytest.mark.sweep)


def compare(function, *arrays):
    """Returns the lengths of a function's programs in the usual and the compact form.

    Asserts that results and gradients agree.
    """

    def loss(*arrays):
        out = function(*arrays)
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

    results = []
    for few in (False, True):
        jax.clear_caches()
        both = jax.value_and_grad(loss, tuple(range(len(arrays))), has_aux=True)
        with compact.few_operations() if few else compact.contextlib.nullcontext():
            program = jax.jit(lambda *a, both=both: both(*a)).lower(*arrays)
        ((_, out), grads) = program.compile()(*arrays)
        results.append(((out, *grads), program.as_text('hlo').count(' = ')))
    (usual, length), (few, shorter) = results
    for a, b in zip(usual, few, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    return length, shorter


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ('window', 'channels', 'fields'),
    [
        ((7, 7), (1, 6), {'groups': 6, 'padding': 'SAME'}),
        ((1, 7), (6, 4), {'padding': 'SAME', 'strides': (2, 2)}),
        more((5, 3), (1, 6), {'groups': 6, 'padding': 'SAME', 'strides': 2}),
        more((3, 3), (1, 6), {'groups': 6, 'dilation': 2, 'strides': (1, 2)}),
        more((7, 5), (6, 2), {'padding': ((3, 2), (0, 4))}),
    ],
)
def test_convolutions(window, channels, fields):
    images, kernel = normal(2, 5, 4, 6), normal(*window, *channels)
    long, short = compare(lambda x, k: conv(x, k, **fields), images, kernel)
    assert short < long


@pytest.mark.parametrize(
    ('window', 'strides', 'fields'),
    [
        (3, 2, {'padding': 1}),
        more(3, 1, {'padding': 'SAME'}),
        more(2, 2, {'ceil_mode': True}),
    ],
)
def test_mean_pools(window, strides, fields):
    compare(lambda x: avg_pool(x, window, strides, **fields), normal(2, 5, 4, 3))


def test_only_small_images_and_only_where_asked():
    assert not compact.fits((8, 8), (8, 8))
    with compact.few_operations():
        assert compact.fits((8, 8), (4, 4))
        assert not compact.fits((9, 8), (4, 4))
    assert not compact.fits((8, 8), (8, 8))

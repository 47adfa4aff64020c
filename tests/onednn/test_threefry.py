"""The extension's random numbers against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from cls.nn.cpu import threefry
from cls.nn.cpu.lowering import for_cpu

DATA = np.array([0, 7], np.uint32)
DRAWS = {
    'bits': lambda key: jax.random.bits(key, (3, 5)),
    'bytes': lambda key: jax.random.bits(key, (7,), 'uint8'),
    'halves': lambda key: jax.random.bits(key, (2, 2), 'uint16'),
    'none': lambda key: jax.random.bits(key, (0, 3)),
    'many': lambda key: jax.random.bits(key, (70001,)),
    'split': lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    'folded': lambda key: jax.random.key_data(jax.random.fold_in(key, 123456789)),
    'negative': lambda key: jax.random.key_data(jax.random.fold_in(key, jnp.int32(-3))),
    'bernoulli': lambda key: jax.random.bernoulli(key, 0.3, (8, 1, 1, 1)),
    'normal': lambda key: jax.random.normal(key, (4, 4)),
    'beta': lambda key: jax.random.beta(key, 0.2, 0.2, (16,)),
    'permutation': lambda key: jax.random.permutation(key, 37),
    'of keys': lambda key: jax.vmap(lambda k: jax.random.uniform(k, (3,)))(
        jax.random.split(key, 5)
    ),
    'of keys of keys': lambda key: jax.vmap(jax.vmap(lambda k: jax.random.split(k)[1]))(
        jax.random.split(key, (3, 2))
    ),
    'folds of keys': lambda key: jax.vmap(jax.random.fold_in, (0, None))(
        jax.random.split(key, 4), 5
    ),
    'folds of numbers': lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(6)),
    'in a loop': lambda key: jax.lax.scan(
        lambda k, i: (jax.random.fold_in(k, i), jax.random.bits(k)), key, jnp.arange(4)
    ),
}


def words(tree):
    def of(x):
        typed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if typed else x)

    return jax.tree.map(of, tree)


@pytest.mark.parametrize('name', DRAWS)
def test_they_are_the_same_bits(one_device, name):
    expected = words(jit(DRAWS[name])(jax.random.wrap_key_data(DATA)))

    def ours(data):
        with for_cpu():
            key = threefry.wrapped(data)
        return DRAWS[name](key)

    assert 'cls_random' in jit(ours).lower(DATA).as_text() or name == 'none'
    # The bits; XLA rounds what follows from them by the operations next to it.
    equal = np.testing.assert_allclose if name == 'beta' else np.testing.assert_array_equal
    tolerance = {'rtol': 1e-5} if name == 'beta' else {}
    made = words(jit(ours)(DATA))
    jax.tree.map(lambda *values: equal(*values, **tolerance), made, expected)


def test_a_seed_is_the_same_key():
    np.testing.assert_array_equal(words(jax.random.key(7, impl=threefry._GENERATOR)), DATA)


def test_elsewhere_the_key_is_jax_s(one_device):
    usual = jax.random.wrap_key_data(jnp.asarray(DATA)).dtype
    assert threefry.wrapped(jnp.asarray(DATA)).dtype == usual
    with for_cpu(), jax.threefry_partitionable(False):
        assert threefry.wrapped(jnp.asarray(DATA)).dtype == usual
    with for_cpu(), jax.default_prng_impl('rbg'):
        assert threefry.wrapped(jnp.zeros(4, jnp.uint32)).dtype != usual


def test_words_of_64_bits(one_device):
    with jax.enable_x64(True):
        expected = jax.random.bits(jax.random.wrap_key_data(DATA), (3, 2), 'uint64')
        with for_cpu():
            key = threefry.wrapped(DATA)
        ours = jax.jit(lambda key: jax.random.bits(key, (3, 2), 'uint64'))(key)
        np.testing.assert_array_equal(ours, expected)

"""PolyInception modules: expanded polynomials, shared weights, and dropped terms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from cls.models.polynet import PolyInception
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm

RNG = np.random.default_rng(7)
X = np.abs(RNG.standard_normal((16, 3, 3, 6))).astype(np.float32)


def module(kind, survival, train):
    norm = functools.partial(BatchNorm, train)
    return PolyInception(kind, 'b', 1 / 16, survival, train, Conv, norm)


def terms(kind, variables):
    """Returns the outputs of the blocks' last layers, without drops, by the batch's statistics."""
    apply = functools.partial(
        module(kind, 1.0, True).apply,
        capture_intermediates=True,
        mutable=['intermediates', 'batch_stats'],
    )
    seen = jit(apply)(variables, X)[1]['intermediates']
    return [np.asarray(seen[k]['__call__'][0]) for k in sorted(seen) if 'conv2d' in k]


@pytest.mark.parametrize(
    'kind', ['poly-2', *(pytest.param(k, marks=pytest.mark.sweep) for k in ('2-way', 'mpoly-2'))]
)
def test_terms_are_dropped_independently_and_without_effect_on_the_others(kind):
    model = module(kind, 0.6, True)
    variables = jit(model.init)({'params': jax.random.key(0), 'dropout': jax.random.key(0)}, X)
    one, two = terms(kind, variables)
    choices = np.stack(
        [np.maximum(X + a * one + b * two, 0) for a in (0, 1) for b in (0, 1)]
    )  # neither, the second, the first, both

    @jit
    def run(key):
        return model.apply(variables, X, mutable=['batch_stats'], rngs={'dropout': key})[0]

    counts = np.zeros(4)
    for seed in range(8):
        distance = np.abs(choices - np.asarray(run(jax.random.key(seed)))).max((2, 3, 4))
        assert distance.min(0).max() < 1e-5
        counts += np.bincount(distance.argmin(0), minlength=4)
    # Means of 128 draws, with standard deviations of 4.2 to 6.1.
    np.testing.assert_allclose(counts, [20.5, 30.7, 30.7, 46.1], atol=22)


def test_evaluation_weights_terms_by_their_survival():
    variables = jit(module('2-way', 1.0, False).init)(jax.random.key(0), X)
    outputs = {
        s: np.asarray(jit(module('2-way', s, False).apply)(variables, X)) for s in (0.0, 0.5, 1.0)
    }
    np.testing.assert_allclose(outputs[0.0], X)
    alive = outputs[1.0] > 0
    half = np.maximum((X + outputs[1.0]) / 2, 0)
    np.testing.assert_allclose(outputs[0.5][alive], half[alive], rtol=1e-5, atol=1e-6)


def test_poly_shares_all_convolutions_but_the_last():
    def count(kind):
        shapes = jax.eval_shape(module(kind, 1.0, False).init, jax.random.key(0), jnp.asarray(X))
        kernels = jax.tree_util.tree_leaves_with_path(shapes['params'])
        return sum(path[-1].key == 'kernel' for path, _ in kernels)

    # Four convolutions in the paths and one after them.
    assert [count(kind) for kind in ('1-way', 'poly-3', 'mpoly-3', '3-way')] == [5, 7, 15, 15]

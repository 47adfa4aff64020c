"""The norm of a tree against NumPy in float64, and the number of sums in its program."""

import jax
import numpy as np
import optax
import pytest
from compiling import jit

from cls.steps import norms, sharding


def tree():
    rng = np.random.default_rng(0)
    shapes = [(3, 3, 2, 8), (8,), (1,), (), (sharding.MIN_SPLIT,), (3, sharding.MIN_SPLIT)]
    return {f'{i}': rng.normal(size=s).astype(np.float32) for i, s in enumerate(shapes)}


def test_the_norm_is_that_of_all_elements():
    elements = np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree())], dtype=np.float64)
    assert float(norms.global_norm(tree())) == pytest.approx(np.linalg.norm(elements), rel=1e-6)
    assert float(norms.global_norm({})) == 0


@pytest.mark.parametrize('largest', [1e3, 1.0])
def test_clipping_is_that_of_optax(largest):
    ours, theirs = norms.clip_by_global_norm(largest), optax.clip_by_global_norm(largest)
    assert ours.init(tree()) == theirs.init(tree())  # checkpoints have its structure
    clipped, _ = jit(ours.update)(tree(), ours.init(tree()))
    expected, _ = jit(theirs.update)(tree(), theirs.init(tree()))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), clipped, expected)
    if largest > 100:
        jax.tree.map(np.testing.assert_array_equal, clipped, tree())


@pytest.mark.parametrize('count', [1, 100])
def test_small_arrays_are_summed_together(count):
    scales = [np.ones(16, np.float32)] * count
    program = jax.make_jaxpr(norms.global_norm)([*scales, np.ones(sharding.MIN_SPLIT)])
    sums = [eqn for eqn in program.eqns if eqn.primitive.name == 'reduce_sum']
    assert len(sums) == 2

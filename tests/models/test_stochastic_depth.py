"""Stochastic depth: the choice of dropped blocks, its rates, and the remaining network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from flax import linen as nn

from cls import models
from cls.nn.shortcut import pooled

BLOCKS = 4
MODEL = models.create('resnet110_sd_cifar', stage_sizes=(2, 1, 1), drop_rate=0.8)
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def variables():
    return jit(MODEL.init)(jax.random.key(0), IMAGES)


def in_training(variables, key):
    """Returns whether the logits depend on the last norm of each block: (BLOCKS,) bool."""

    def output(shifts):
        """Returns the sum of the logits over the batch, with a shift added to each residual."""
        residuals = iter(shifts)

        def shift(next_fun, args, kwargs, context):
            moved = context.module.name == 'bn2' and context.method_name == '__call__'
            out = next_fun(*args, **kwargs)
            return out + next(residuals) if moved else out

        with nn.intercept_methods(shift):
            logits, _ = MODEL.apply(
                variables, IMAGES, True, mutable=['batch_stats'], rngs={'dropout': key}
            )
        return logits.sum(0)

    return (jax.jacobian(output)(jnp.zeros(BLOCKS)) != 0).any(0)


def test_a_block_is_dropped_for_the_batch_and_deeper_ones_more_often(variables):
    keys = jax.random.split(jax.random.key(1), 200)
    alive = np.asarray(jit(jax.vmap(functools.partial(in_training, variables)))(keys))
    survival = 1 - 0.8 * np.arange(1, BLOCKS + 1) / BLOCKS  # equation 4
    deviation = np.sqrt(survival * (1 - survival) / len(keys))
    assert np.all(abs(alive.mean(0) - survival) < 4 * deviation)
    assert len(np.unique(alive, axis=0)) > BLOCKS  # blocks are drawn independently


def test_examples_of_a_batch_share_the_gates(variables):
    """Copies of one image have equal batch statistics, and equal outputs."""
    same = np.repeat(IMAGES[:1], 4, axis=0)

    @jit
    def features(key):
        rngs, mutable = {'dropout': key}, ['batch_stats', 'intermediates']
        _, captured = MODEL.apply(variables, same, True, mutable=mutable, rngs=rngs)
        return captured['intermediates']['pre_logits'][0]

    outputs = np.stack([features(jax.random.key(i)) for i in range(8)])
    np.testing.assert_allclose(outputs, outputs[:, :1].repeat(4, axis=1), atol=1e-5)
    assert len(np.unique(outputs[:, 0].round(4), axis=0)) > 1


def test_pooled_shortcut():
    x = np.random.default_rng(1).normal(size=(2, 5, 4, 3)).astype(np.float32)
    out = np.asarray(pooled(x, 8, 2))
    assert out.shape == (2, 3, 2, 8)
    np.testing.assert_allclose(out[:, 0, 1, :3], x[:, :2, 2:].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(out[:, 2, 0, :3], x[:, 4, :2].mean(1), rtol=1e-5)
    assert not out[..., 3:].any()
    np.testing.assert_array_equal(pooled(x, 3, 1), x)

"""Drop path in the networks of later recipes: the rates of timm's, by block, in training alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from cls import models
from cls.models.registry.init import init
from cls.nn import inverted, residual

SMALL = {'stage_sizes': (2, 1, 1, 1), 'widths': (4, 8, 16, 32), 'num_classes': 5}
# The residual blocks of Table 1 in the paper of MobileNetV3, counted from 0: no stride, and as many
# channels out as in. timm counts the last of 16 stages, a convolution, in the growth of the rate.
LARGE = [0, 2, 4, 5, 7, 8, 9, 11, 13, 14]


@pytest.mark.parametrize(
    ('variant', 'fields', 'module', 'rates'),
    [
        ('resnet50', SMALL, residual, [0.05 * i / 4 for i in range(5)]),
        ('seresnet50', {**SMALL, 'reduction': 4}, residual, [0.05 * i / 4 for i in range(5)]),
        ('mobilenetv3_large_100', {}, inverted, [0.05 * i / 16 for i in LARGE]),
    ],
)
def test_the_rates_grow_by_the_block(monkeypatch, variant, fields, module, rates):
    model = models.create(variant, **fields, drop_path_rate=0.05)
    seen = []
    monkeypatch.setattr(module, 'path_of', lambda block, y, rate: seen.append(rate) or y)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = models.abstract_variables(model, 32)
    seen.clear()

    def apply(train):
        apply = functools.partial(model.apply, train=train, mutable=['batch_stats'])
        rngs = {'dropout': jax.random.key(0)}
        jax.eval_shape(lambda v, x: apply(v, x, rngs=rngs), variables, images)

    apply(train=False)
    assert not any(seen)
    seen.clear()
    apply(train=True)
    assert seen == pytest.approx(rates)


def test_a_dropped_block_is_its_shortcut():
    """At a rate near 1 the last block of most examples is its shortcut, and no key is needed at 0.

    A bottleneck in the first place has the rate 0, so that of two blocks only the second is
    dropped: its output is that of the first, positive already.
    """
    fields = {'stage_sizes': (2,), 'widths': (4,), 'num_classes': 5}
    model = models.create('resnet50', **fields, drop_path_rate=0.999)
    plain = models.create('resnet50', **fields)
    variables = init(plain, 0, 32)
    images = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
    def blocks(model, rngs):
        _, sown = model.apply(
            variables,
            images,
            train=True,
            rngs=rngs,
            mutable=['batch_stats', 'intermediates'],
            capture_intermediates=lambda module, _: isinstance(module, residual.Bottleneck),
        )
        stage = sown['intermediates']['layer1']
        return [stage[name]['__call__'][0] for name in ('0', '1')]

    first, second = blocks(model, {'dropout': jax.random.key(0)})
    np.testing.assert_array_equal(first, second)
    whole_first, whole_second = blocks(plain, {})
    np.testing.assert_array_equal(first, whole_first)
    assert np.any(whole_first != whole_second)

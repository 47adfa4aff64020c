"""Tables of branches: names, order and widths (the golden files test their values)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from compiling import jit

from cls.nn import inception
from cls.nn.conv import Conv
from cls.nn.inception import AVERAGE, Mixed, ScaledResidual, Unit
from cls.nn.norm import BatchNorm

TABLE = {
    'one': (Unit(4, 1),),
    'forked': (AVERAGE, (Unit(6, (1, 3)), Unit(8, (3, 1)))),
    'pool': (AVERAGE,),
}
X = np.random.default_rng(2).standard_normal((2, 5, 6, 3)).astype(np.float32)


def unit(width):
    norm = functools.partial(BatchNorm, False)
    return functools.partial(inception.make_unit, conv=Conv, norm=norm, width=width)


def kernels(width):
    block = Mixed(TABLE, unit(width))
    params = jax.eval_shape(block.init, jax.random.key(0), X)['params']
    return {name: params[name]['conv']['kernel'].shape for name in params}


def test_names_and_widths():
    assert kernels(1) == {
        'one': (1, 1, 3, 4),
        'forked.1a': (1, 3, 3, 6),
        'forked.1b': (3, 1, 3, 8),
    }
    assert [shape[-1] for shape in kernels(0.2).values()] == [1, 1, 1]


def test_branches_are_concatenated_in_the_order_of_the_table():
    out, _ = jit(Mixed(TABLE, unit(1)).init_with_output)(jax.random.key(0), X)
    assert out.shape == (2, 5, 6, 4 + 6 + 8 + 3)
    np.testing.assert_array_equal(out[..., -3:], AVERAGE(jnp.asarray(X)))


def test_residual_is_scaled_before_the_sum():
    def out(scale, act):
        block = ScaledResidual(TABLE, unit(1), Conv, scale, act)
        return jit(block.init_with_output)(jax.random.key(0), X)[0]

    residual = out(1.0, None) - X
    assert np.abs(residual).max() > 0.1
    np.testing.assert_allclose(out(0.25, None), X + 0.25 * residual, atol=1e-6)
    np.testing.assert_allclose(
        out(0.25, jax.nn.relu), np.maximum(X + 0.25 * residual, 0), atol=1e-6
    )

"""Steps to compare ours with: those of files, and ours with the layers of flax.linen."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from cls.errors import UserError
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
from cls.nn.pool import avg_pool, max_pool
from cls.tools import compile_for
from cls.tools.compile_for import Baseline, Report
from cls.tools.tpu import against
from cls.tools.tpu.costs import Memory
from tests import tiny
from tests.tools import flax_resnet50


class Layers(nn.Module):
    """Each kind of layer that is replaced."""

    @nn.compact
    def __call__(self, x):
        x = Conv(8, 3, 2, name='full')(x)
        x = Conv(8, 3, padding='SAME', groups=8, name='depthwise')(x)
        x = Conv(8, 1, 2, name='pointwise')(BatchNorm(True, group=2, name='grouped')(x))
        x = BatchNorm(True, name='whole')(x)
        return max_pool(x, 3, 1, 1) + avg_pool(x, 3, 1, 1)


def test_layers_of_linen_have_the_values_and_gradients_of_ours():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 16, 16, 3)), jnp.float32)
    variables = jit(Layers().init)(jax.random.key(0), x)

    def both():
        def loss(params):
            variables_ = {**variables, 'params': params}
            out, updated = Layers().apply(variables_, x, mutable=['batch_stats'])
            return jnp.sum(jnp.sin(out)), (out, updated)

        return jax.grad(loss, has_aux=True)(variables['params'])

    ours = jit(lambda: both())()
    with against.linen():
        theirs = jit(lambda: both())()
        program = jax.jit(lambda: both()).lower().as_text()
    assert 'Conv_0' not in jax.tree_util.keystr(jax.tree.leaves_with_path(theirs)[0][0])
    assert 'case' not in program  # of platforms
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_file_is_compiled_for_our_chips_images_and_pixels(tmp_path):
    file = tmp_path / 'step.py'
    file.write_text(
        'import jax\n'
        'import jax.numpy as jnp\n'
        'def lower(devices, batch, pixels):\n'
        '    assert (len(devices), batch, pixels) == (2, 16, 8)\n'
        '    return jax.jit(lambda x: x + 1).lower(jnp.zeros(10**6))\n'
    )
    setup = tiny.setup(devices=2)
    lowered = compile_for.baseline_step(setup, against.read(str(file)))
    baseline = compile_for.baseline_of(setup, lowered)
    assert baseline.fits
    assert baseline.bytes_accessed == pytest.approx(8e6, rel=0.01)


def test_linen_s_step_has_our_arguments():
    setup = tiny.setup(devices=2)
    baseline = compile_for.baseline_of(setup, against.LINEN)
    assert baseline.memory.arguments == compile_for.report_of(setup).memory.arguments


@pytest.mark.parametrize(
    ('body', 'said'),
    [('return None', 'returned NoneType: expected'), ('raise KeyError(3)', 'KeyError: 3')],
)
def test_a_step_that_cannot_be_compiled_is_refused(body, said):
    scope: dict = {}
    exec(f'def lower(devices, batch, pixels): {body}', scope)
    with pytest.raises(UserError, match=rf'--against: lower\(\).*{said}'):
        compile_for.baseline_step(tiny.setup(devices=2), scope['lower'])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'expected a Python file, or linen'),
        ('1 / 0', 'ZeroDivisionError'),
        ('lower = 3', 'expected a function lower'),
    ],
)
def test_mistakes_in_a_file(text, message, tmp_path):
    file = tmp_path / 'step.py'
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        against.read(str(file))


def test_the_comparison():
    report = functools.partial(
        Report, chips=4, batch=128, pixels=224, model_flops=1e9, compile_seconds=1.0
    )
    ours = report(quick=False, fits=True, memory=Memory(2**30), bytes_accessed=9e9, cycles=3e6)
    theirs = Baseline(True, Memory(2**31), 1e10, 4e6)
    assert compile_for.comparison(ours, theirs, 'linen').splitlines() == [
        'against     linen: 10.00 GB accessed, 4.00 million cycles, 2.00 GiB',
        'ours        0.900 x the bytes, 0.750 x the cycles, 0.500 x the memory',
    ]
    large = Baseline(False, Memory(2**35))
    assert compile_for.comparison(ours, large, 'linen') == (
        'against     linen: 32.00 GiB: DOES NOT FIT'
    )


def test_flax_s_example_is_a_resnet_50_on_all_devices():
    lowered = flax_resnet50.lower(jax.devices(), 16, 32)
    (variables, moments, images, _), _ = lowered.args_info
    params = [x._aval for x in jax.tree.leaves(variables['params'])]
    assert sum(x.size for x in params) == 25_557_032  # as torchvision's
    assert images._aval.shape == (16, 32, 32, 3)
    assert 'sharding_constraint' in lowered.as_text() or 'manual' in lowered.as_text()

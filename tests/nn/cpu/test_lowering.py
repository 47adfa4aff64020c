"""The programs of convolutions and pools for each platform."""

import collections
import re

import jax
import jax.numpy as jnp
import pytest
from compiling import jit
from jax import lax

from cls.nn.conv import conv
from cls.nn.pool import avg_pool, max_pool


def operations(f, args, platform):
    """Returns the count of each operation in a platform's program, and its text.

    `platform_dependent` leaves a `case` of one branch.
    """
    text = jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    counts = collections.Counter(re.findall(r'stablehlo\.(\w+)', text))
    for scaffold in ('case', 'return', 'constant'):
        del counts[scaffold]
    return counts, text


def gradients(f):
    return lambda *args: jax.grad(lambda *a: jnp.sum(f(*a) ** 2), (0, 1))(*args)


DEPTHWISE = (jnp.ones((2, 9, 8, 6)), jnp.ones((3, 3, 1, 6)))
POINTWISE = (jnp.ones((2, 9, 8, 6)), jnp.ones((1, 1, 6, 10)))
GROUPED = (jnp.ones((2, 9, 8, 6)), jnp.ones((3, 3, 2, 9)))
WIDE_GROUPS = (jnp.ones((2, 9, 8, 144)), jnp.ones((3, 3, 72, 120)))


def depthwise(images, kernel):
    return conv(images, kernel, strides=2, groups=6)


def grouped(images, kernel):
    return conv(images, kernel, strides=2, groups=images.shape[-1] // kernel.shape[2])


def pointwise(images, kernel):
    return conv(images, kernel, strides=2)


def plain(images, kernel):
    return lax.conv_general_dilated(
        images,
        kernel,
        (2, 2),
        ((kernel.shape[0] // 2,) * 2,) * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=images.shape[-1] // kernel.shape[2],
    )


WITHOUT_CONVOLUTION = [(depthwise, DEPTHWISE), (pointwise, POINTWISE)]
WITHOUT_GROUPS = [(grouped, GROUPED), (grouped, WIDE_GROUPS)]


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_accelerators_get_a_plain_depthwise_convolution(platform):
    counts, text = operations(depthwise, DEPTHWISE, platform)
    assert counts == {'convolution': 1}
    assert 'feature_group_count = 6' in text


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
@pytest.mark.parametrize(('f', 'args'), WITHOUT_CONVOLUTION + WITHOUT_GROUPS)
def test_accelerators_get_the_program_of_a_plain_convolution(f, args, platform):
    assert operations(f, args, platform)[0] == operations(plain, args, platform)[0]
    ours, theirs = (operations(gradients(g), args, platform)[0] for g in (f, plain))
    assert ours == theirs
    assert ours['convolution'] == 3  # forward, images, kernel


@pytest.mark.parametrize('wrap', [lambda f: f, gradients])
@pytest.mark.parametrize(('f', 'args'), WITHOUT_CONVOLUTION)
def test_the_cpu_program_has_no_convolution(f, args, wrap):
    counts, _ = operations(wrap(f), args, 'cpu')
    assert not counts['convolution']
    assert counts['multiply' if f is depthwise else 'dot_general'] > 0
    compiled = jit(wrap(f)).lower(*args).compile().as_text()
    assert 'conditional' not in compiled
    assert ' convolution(' not in compiled


@pytest.mark.parametrize('wrap', [lambda f: f, gradients])
@pytest.mark.parametrize(('f', 'args'), WITHOUT_GROUPS)
def test_the_cpu_program_has_no_grouped_convolution(f, args, wrap):
    _, text = operations(wrap(f), args, 'cpu')
    assert not re.search(r'feature_group_count = (?!1\b)', text)
    assert not re.search(r'batch_group_count = (?!1\b)', text)


@pytest.mark.parametrize('pool', [max_pool, avg_pool])
def test_pools_are_window_reductions_on_accelerators_and_shifts_on_cpu(pool):
    images = jnp.ones((2, 7, 7, 3))

    def forward(x):
        return pool(x, 3, 2, 'SAME')

    gradient = jax.grad(lambda x: jnp.sum(forward(x) ** 2))
    for f in (forward, gradient):
        tpu, cpu = (operations(f, (images,), platform)[0] for platform in ('tpu', 'cpu'))
        assert 'reduce_window' in tpu
        assert not {'slice', 'select'} & tpu.keys()  # as shifted images need
        assert 'reduce_window' not in cpu
        assert 'conditional' not in jit(f).lower(images).compile().as_text()
    assert ('select_and_scatter' in tpu) == (pool is max_pool)
    assert 'select_and_scatter' not in cpu

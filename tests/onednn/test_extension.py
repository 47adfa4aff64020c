"""The extension that calls oneDNN, built and loaded as a user does."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax import lax
from taps import in_float64

from cls.inference.export import trace
from cls.inference.loading import create
from cls.nn.concat import concat
from cls.nn.conv import conv
from cls.nn.cpu import native
from cls.nn.cpu.lowering import DIMENSIONS, for_cpu, portable
from cls.nn.norm import BatchNorm
from cls.nn.pool import max_pool


def cases(count):
    """Yields convolutions: shapes of images and kernel, strides, pads, dilation, groups.

    Some for all threads, then random small ones, for one thread.
    """
    same = ((1, 1), (1, 1)), (1, 1)
    yield (8, 40, 40, 24), (1, 1, 24, 36), (1, 1), ((0, 0), (0, 0)), (1, 1), 1
    yield (8, 40, 40, 24), (3, 3, 24, 36), (2, 2), *same, 1
    yield (8, 40, 40, 24), (3, 3, 12, 36), (1, 1), *same, 2
    yield (8, 40, 40, 24), (3, 3, 1, 24), (1, 1), *same, 24
    yield (2, 8, 8, 128), (3, 3, 128, 128), (2, 2), *same, 1  # by its products
    rng = np.random.default_rng(0)
    pair = lambda low, high: tuple(int(x) for x in rng.integers(low, high, 2))  # noqa: E731
    for number in range(count):
        groups = int(rng.choice([1, 1, 2, 4, 16]))
        inputs, outputs = (1, 1) if number % 5 == 0 else pair(1, 5)
        window, strides, dilation = pair(1, 5), pair(1, 4), pair(1, 3)
        pads = (pair(0, 4), pair(0, 4))
        size = [
            int(rng.integers(d * (k - 1) + 1, 14)) for k, d in zip(window, dilation, strict=True)
        ]
        images = (int(rng.integers(1, 4)), *size, groups * inputs)
        yield images, (*window, inputs, groups * outputs), strides, pads, dilation, groups


def test_values_and_gradients_are_those_of_a_sum_over_taps(extension):
    for images_shape, kernel_shape, *static in cases(40):
        rng = np.random.default_rng(1)
        images = rng.standard_normal(images_shape, np.float32)
        kernel = rng.standard_normal(kernel_shape, np.float32)
        out, undo = jax.vjp(
            lambda x, w, s=static: native.conv(x, w, native.Geometry(*s)), images, kernel
        )
        expected = in_float64(images, kernel, *static)
        grad = rng.standard_normal(expected.shape, np.float32)
        d_images, d_kernel = undo(grad)
        case = (images_shape, kernel_shape, static)
        close(out, expected, kernel[..., 0].size, case)
        # <grad, conv(x, w)> is linear in both: its gradients by perturbation are exact.
        for value, at, summands in (
            (d_images, lambda v, s=static, w=kernel: in_float64(v, w, *s), kernel.size),
            (d_kernel, lambda v, s=static, x=images: in_float64(x, v, *s), grad.size),
        ):
            direction = rng.standard_normal(value.shape)
            change = np.sum(grad * at(direction))
            scale = np.sqrt(np.sum(np.square(value)) * direction.size) + 1
            error = abs(np.sum(np.asarray(value, np.float64) * direction) - change)
            assert error < 1e-6 * np.sqrt(summands) * scale, case


def close(value, expected, summands, case):
    scale = np.sqrt(summands) * 1e-6 * (1 + np.abs(expected).max())
    assert value.shape == expected.shape, case
    assert np.abs(value - expected).max() < scale, case


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_narrow_types_are_computed_in_float32(extension, dtype):
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 5, 4)), dtype)
    kernel = jnp.asarray(np.random.default_rng(1).standard_normal((3, 3, 4, 6)), dtype)
    static = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    out = native.conv(images, kernel, native.Geometry(*static))
    expected = in_float64(images, kernel, *static)
    assert out.dtype == dtype
    np.testing.assert_array_equal(np.asarray(out), np.asarray(jnp.asarray(expected, dtype)))


def test_strides_of_single_pixels_with_few_inputs_stay_here(extension):
    """To oneDNN goes the gradient of a kernel at stride 1, on the pixels that it sees."""
    rng = np.random.default_rng(5)
    for size, strides in ((9, (2, 2)), (8, (1, 2)), (10, (3, 1))):
        geometry = native.Geometry(strides, ((0, 0), (0, 0)), (1, 1), 1)
        images = rng.standard_normal((3, size, size, 4), np.float32)
        seen = images[:, :: strides[0], :: strides[1]]
        grad = rng.standard_normal((*seen.shape[:3], 8), np.float32)
        program = functools.partial(native.kernel_grad, shape=(1, 1, 4, 8), geometry=geometry)
        call = str(jax.make_jaxpr(program)(images, grad)).split('ffi_call[')[1]
        assert "('strides', HashableArray(array([1, 1])))" in call.split('target_name')[0]
        expected = np.einsum('nhwi,nhwo->io', seen, grad)
        np.testing.assert_allclose(program(images, grad)[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_second_derivatives_and_vmap(extension):
    images = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 6, 6, 4)), jnp.float32)
    kernel = jnp.asarray(np.random.default_rng(1).standard_normal((3, 3, 2, 6)), jnp.float32)
    static = ((2, 1), ((1, 1), (0, 1)), (1, 1), 2)

    def plain(x, w):
        return lax.conv_general_dilated(
            x, w, static[0], static[1], dimension_numbers=DIMENSIONS, feature_group_count=2
        )

    def curvature(f):
        def loss(x, w):
            return jnp.sum(jnp.sin(f(x, w)))

        def norm(x, w):
            grads = jax.grad(loss, (0, 1))(x, w)
            return sum(jnp.sum(jnp.square(g) * g) for g in grads)

        return jit(jax.vmap(jax.grad(norm, (0, 1)), (0, None)))

    ours = curvature(lambda x, w: native.conv(x, w, native.Geometry(*static)))(images, kernel)
    for value, expected in zip(ours, curvature(plain)(images, kernel), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6 * abs(expected).max())


def text(platform, images, kernel):
    def loss(x, w):
        return jnp.sum(conv(x, w, strides=2) ** 2)

    lowered = jax.jit(jax.grad(loss, (0, 1))).trace(images, kernel)
    return lowered.lower(lowering_platforms=(platform,)).as_text()


def test_only_programs_for_one_cpu_device_call_it(extension, monkeypatch):
    images, kernel = jnp.ones((2, 9, 8, 6)), jnp.ones((3, 3, 6, 5))
    assert jax.device_count() == 8  # of these tests
    assert 'cls_conv' not in text('cpu', images, kernel)
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    calls = ('@cls_conv(', '@cls_conv_image_grad(', '@cls_conv_kernel_grad(')
    jax.clear_caches()
    assert all(call in text('cpu', images, kernel) for call in calls)
    for platform in ('tpu', 'cuda'):
        program = text(platform, images, kernel)
        assert 'cls_conv' not in program
        assert program.count('stablehlo.convolution') == 3
    jax.clear_caches()


def test_traces_for_cpus_do_not_get_into_other_programs(one_device):
    """Convolutions, norms and pools, of the same shapes within and without `for_cpu`."""

    def loss(x, kernel):
        y = max_pool(conv(x, kernel), 2, 2)
        out, updated = BatchNorm(True).init_with_output(jax.random.key(0), y)
        return jnp.sum(jnp.sin(out)), updated

    def gradient(x, kernel):  # a new function each time: JAX keeps traces by function
        return jax.grad(lambda *args: loss(*args), (0, 1), has_aux=True)(x, kernel)

    images, kernel = jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 6, 5))
    with for_cpu():
        alone = str(jax.make_jaxpr(lambda *args: gradient(*args))(images, kernel))
    assert 'cls_conv' in alone
    assert 'platform_index' not in alone
    traced = jax.jit(lambda *args: gradient(*args)).trace(images, kernel)
    program = traced.lower(lowering_platforms=('tpu',)).as_text()
    assert 'cls_' not in program
    assert 'stablehlo.convolution' in program
    assert 'platform_index' in str(traced.jaxpr)


def test_portable_programs_do_not_call_it(one_device):
    """Traces for this machine are not used, nor joins and norms; sizes may be symbolic."""

    def network(x):
        y = concat(x, 2 * x)
        variables = jax.eval_shape(lambda: BatchNorm(True).init(jax.random.key(0), y))
        ones = jax.tree.map(lambda v: jnp.ones(v.shape), variables)
        return concat(y, BatchNorm(True).apply(ones, y, mutable='batch_stats')[0])

    x = jnp.ones((2, 8, 8, 6))
    assert 'ffi_call' in str(jax.make_jaxpr(lambda x: network(x))(x))
    with portable():
        assert 'ffi_call' not in str(jax.make_jaxpr(lambda x: network(x))(x))
        (count,) = jax.export.symbolic_shape('N')
        images = jax.ShapeDtypeStruct((count, 8, 8, 6), jnp.float32)
        assert 'ffi_call' not in str(jax.make_jaxpr(lambda x: concat(x, x))(images))


def test_a_densely_connected_network_is_exported(one_device):
    model = create('densenet40_k12_bc_cifar', num_classes=10)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    graph = trace.traced(functools.partial(model.module.apply, model.variables), images)
    assert not {node.op for node in graph.nodes if 'ffi' in node.op}


def test_narrow_statistics_and_scales_are_computed_in_float32(one_device):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3, 3, 5)), jnp.float32)
    variables = BatchNorm(True).init(jax.random.key(0), x)

    def applied(dtype):
        cast = jax.tree.map(lambda v: v.astype(dtype), variables)
        return jit(lambda v: BatchNorm(True).apply(v, x, mutable='batch_stats'))(cast)

    out, updated = applied(jnp.float32)
    for dtype in (jnp.bfloat16, jnp.float16):
        narrow, statistics = applied(dtype)
        np.testing.assert_allclose(narrow, out, rtol=1e-5, atol=1e-5)
        for value, wanted in zip(*map(jax.tree.leaves, (statistics, updated)), strict=True):
            np.testing.assert_allclose(np.asarray(value, np.float32), wanted, rtol=1e-2)


def test_a_kernel_for_other_channels_is_refused(one_device):
    with for_cpu(), pytest.raises(ValueError, match='for images with 6 channels: expected'):
        jax.eval_shape(conv, jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 5, 4)))


def test_convolutions_that_onednn_lacks_keep_their_form(extension, monkeypatch):
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    images = jnp.ones((2, 4, 4, 3))
    assert native.fits(images, [4, 4], ((0, 0), (0, 0)))
    assert not native.fits(images, [0, 4], ((0, 0), (0, 0)))
    assert not native.fits(images.astype('int32'), [4, 4], ((0, 0), (0, 0)))
    assert not native.fits(images, [3, 4], ((-1, 0), (0, 0)))


PROGRAM = """
import json, sys
import jax
from cls.run import environment
from cls.tools.benchmark_worker import Training, config_of
from cls.setup import set_up
environment.start()
training = Training(set_up(config_of('resnet20_cifar', 4, 8)))
training.compile()
training.steps(3)
program = training.train_step.as_text()
calls = program.count('custom_call_target="cls_conv')
others = [name for name in ('cls_norm_terms', 'cls_join', 'cls_split') if name in program]
norms = [float((x ** 2).sum()) for x in jax.tree.leaves(training.state.params)]
print(json.dumps([calls, others, norms]))
"""


def test_a_training_with_it_agrees_with_one_without(extension):
    variables = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'PYTEST_XDIST')}
    results = []
    for cache in (os.environ['CLS_CACHE_DIR'], os.environ['CLS_CACHE_DIR'] + '/none'):
        done = subprocess.run(
            [sys.executable, '-c', PROGRAM],
            env=variables | {'CLS_CACHE_DIR': cache},
            capture_output=True,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout.splitlines()[-1]))
    (calls, others, ours), (none, no_others, xla) = results
    assert calls == 3 * 19 - 1  # the images need no gradient
    assert others == ['cls_norm_terms', 'cls_join', 'cls_split']
    assert (none, no_others) == (0, [])
    np.testing.assert_allclose(ours, xla, rtol=1e-4)


THREADS = """
from concurrent.futures import ThreadPoolExecutor
import jax
import numpy as np
from cls.nn.cpu import native
from cls.onednn import load
assert load.load()
rng = np.random.default_rng(0)
draw = lambda *shape: rng.standard_normal(shape, np.float32)
every = native.Geometry((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
function = jax.jit(lambda x, w, g: jax.vjp(lambda x, w: native.conv(x, w, every), x, w)[1](g))
inputs = [
    (draw(2, 14, 14, c), draw(3, 3, c, 24), draw(2, 14, 14, 24)) for c in (3, 16, 40, 64) * 4
]
expected = [jax.device_get(function(*arguments)) for arguments in inputs]
with ThreadPoolExecutor(4) as pool:
    for _ in range(20):
        for result, wanted in zip(pool.map(lambda a: function(*a), inputs), expected, strict=True):
            for value, other in zip(jax.device_get(result), wanted, strict=True):
                np.testing.assert_array_equal(value, other)
"""


@pytest.mark.parametrize('threads', ['1', ''])
def test_convolutions_of_several_threads_do_not_disturb_each_other(extension, threads):
    """With a thread for each convolution as many run at a time as there are cores."""
    variables = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'PYTEST_XDIST')}
    variables |= {'OMP_NUM_THREADS': threads} if threads else {}
    subprocess.run([sys.executable, '-c', THREADS], env=variables, check=True)

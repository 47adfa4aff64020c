"""Pooling against loops in NumPy, XLA's reduce_window, and shapes computed by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax import lax

from cls.nn.pool import avg_pool, max_pool

RNG = np.random.default_rng(1)


def two(value):
    return value if isinstance(value, tuple) else (value, value)


def axis_windows(n, k, s, padding, ceil_mode):
    """Returns for each output along an axis (pixels of the image, pixels counted with padding)."""
    if padding == 'SAME':
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        low, high = total // 2, total - total // 2
    elif padding is None:
        low = high = (k - 1) // 2
    else:
        low, high = {'VALID': (0, 0)}.get(padding, padding)
    start, windows = -low, []
    while start + k <= n + high or (ceil_mode and start < n and start + k - s < n + high):
        seen = [i for i in range(start, start + k) if 0 <= i < n]
        padded = [i for i in range(start, start + k) if i < n + high]
        windows.append((seen, len(padded)))
        start += s
    return windows


def loops(images, window, strides, padding, ceil_mode, kind, count_padding=False):
    """Returns pools by their definition, window by window."""
    axes = two(padding) if isinstance(padding, int) else padding
    axes = axes if isinstance(axes, tuple) else (axes, axes)
    rows, columns = (
        axis_windows(n, k, s, two(p) if isinstance(p, int) else p, ceil_mode)
        for n, k, s, p in zip(images.shape[1:3], two(window), two(strides), axes, strict=True)
    )
    out = np.empty((len(images), len(rows), len(columns), images.shape[-1]))
    for i, (r, r_count) in enumerate(rows):
        for j, (c, c_count) in enumerate(columns):
            seen = np.asarray(images, np.float64)[:, r][:, :, c]
            if kind == 'max':
                out[:, i, j] = seen.max((1, 2))
            else:
                count = r_count * c_count if count_padding else len(r) * len(c)
                out[:, i, j] = seen.sum((1, 2)) / count
    return out


FORMS = [  # window, strides, padding, ceil_mode, (height, width)
    (2, 2, 'VALID', False, (6, 7)),
    (3, 2, 'SAME', False, (6, 7)),
    (3, 1, 'SAME', False, (4, 5)),
    (2, 1, 'SAME', False, (4, 5)),
    (3, 2, 1, False, (6, 7)),
    (3, 2, None, False, (6, 7)),
    (3, 2, 'VALID', True, (6, 7)),
    (3, 2, 1, True, (6, 7)),
    (2, 3, 1, True, (5, 6)),  # without the window that would start in the padding
    (3, 3, 0, True, (7, 8)),
    (2, 3, 'VALID', False, (7, 8)),  # windows with gaps between
    ((3, 1), (2, 1), 'SAME', False, (5, 4)),
    ((2, 3), (1, 2), ((1, 0), (0, 1)), False, (5, 6)),
    ((3, 2), (2, 3), (1, 0), True, (6, 6)),
    ((5, 4), 1, 'VALID', False, (5, 4)),
]


@pytest.mark.parametrize('form', FORMS)
def test_values_are_those_of_a_loop(form):
    window, strides, padding, ceil_mode, size = form
    images = RNG.standard_normal((2, *size, 3)).astype(np.float32)
    args = (window, strides, padding, ceil_mode)

    @jit
    def ours(images):
        return (
            max_pool(images, *args),
            avg_pool(images, *args),
            avg_pool(images, *args, count_padding=True),
        )

    theirs = (
        loops(images, *args, 'max'),
        loops(images, *args, 'avg'),
        loops(images, *args, 'avg', count_padding=True),
    )
    for one, other in zip(ours(images), theirs, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def reduced(images, initial, reduce, window, strides, pads):
    """Returns XLA's window reduction, with explicit padding."""
    windows, steps = (1, *two(window), 1), (1, *two(strides), 1)
    return lax.reduce_window(images, initial, reduce, windows, steps, ((0, 0), *pads, (0, 0)))


EXPLICIT = [  # window, strides, pads, size
    (3, 2, ((1, 1), (1, 1)), (7, 6)),
    (3, 2, ((0, 1), (1, 1)), (6, 7)),
    (2, 2, ((0, 0), (0, 0)), (7, 6)),
    (3, 1, ((1, 1), (1, 1)), (5, 4)),
    ((2, 3), (1, 2), ((0, 1), (2, 0)), (5, 6)),
    (2, 3, ((0, 0), (0, 0)), (7, 8)),
]


@pytest.mark.parametrize('form', EXPLICIT)
def test_gradients_are_xlas(form):
    window, strides, pads, size = form

    def maxima(images):
        ours = max_pool(images, window, strides, pads)
        return ours, reduced(images, -jnp.inf, lax.max, window, strides, pads)

    def means(images):
        ours = avg_pool(images, window, strides, pads, count_padding=True)
        return ours, reduced(images, 0.0, lax.add, window, strides, pads) / math.prod(two(window))

    @jit
    def both(images, cotangent):
        results = []
        for f in (maxima, means):
            out, pull = jax.vjp(f, images)
            zeros = jnp.zeros_like(cotangent)
            results.append((*out, *pull((cotangent, zeros)), *pull((zeros, cotangent))))
        return results

    images = RNG.standard_normal((2, *size, 3)).astype(np.float32)
    cotangent = RNG.standard_normal(jax.eval_shape(maxima, images)[0].shape).astype(np.float32)
    for x in (images, np.floor(images)):  # floored: few values, hence ties
        for ours, theirs, our_gradient, their_gradient in both(x, cotangent):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(our_gradient, their_gradient, rtol=1e-5, atol=1e-5)


def test_the_first_of_equal_maxima_gets_the_gradient():
    images = np.float32([[2, 2, 0], [2, 1, 0], [1, 1, 1]]).reshape(1, 3, 3, 1)
    weights = np.float32([[1, 2], [4, 8]]).reshape(1, 2, 2, 1)
    gradient = jit(jax.grad(lambda x: jnp.sum(max_pool(x, 2, 1) * weights)))(images)
    # First maxima: of 2 2 / 2 1 at (0, 0); of 2 0 / 1 0 at (0, 1); of 2 1 / 1 1 at (1, 0); of
    # 1 0 / 1 1 at (1, 1).
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 2, 0], [4, 8, 0], [0, 0, 0]])


def test_average_gradient_without_padding_in_the_count():
    """A corner window of 'SAME' has four pixels, and each gets a quarter of the gradient."""
    gradient = jit(jax.grad(lambda x: avg_pool(x, 3, 1, 'SAME')[0, 0, 0, 0]))
    expected = np.zeros((4, 4))
    expected[:2, :2] = 1 / 4
    np.testing.assert_allclose(gradient(jnp.ones((1, 4, 4, 1)))[0, :, :, 0], expected)


@pytest.mark.parametrize(
    ('n', 'k', 's', 'p', 'floor', 'ceil'),
    [
        (112, 3, 2, 0, 55, 56),  # GoogLeNet's pools
        (56, 3, 2, 0, 27, 28),
        (14, 3, 2, 0, 6, 7),
        (7, 3, 2, 0, 3, 3),
        (6, 3, 2, 1, 3, 4),
        (5, 2, 3, 1, 2, 2),  # a third window would be in the padding
        (4, 2, 2, 0, 2, 2),
    ],
)
def test_shapes_computed_by_hand(n, k, s, p, floor, ceil):
    images = jax.ShapeDtypeStruct((2, n, n, 3), jnp.float32)
    for pool in (max_pool, avg_pool):
        for mode, size in ((False, floor), (True, ceil)):
            out = jax.eval_shape(lambda x, f=pool, m=mode: f(x, k, s, p, m), images)
            assert out.shape == (2, size, size, 3)


def test_values_computed_by_hand():
    ramp = jnp.arange(1.0, 5).reshape(1, 1, 4, 1)  # 1 2 3 4; windows 1 2 3 and 3 4 (.)
    args = ((1, 3), (1, 2), 'VALID', True)
    np.testing.assert_array_equal(max_pool(ramp, *args).ravel(), [3, 4])
    np.testing.assert_allclose(avg_pool(ramp, *args).ravel(), [2, 3.5])
    np.testing.assert_allclose(avg_pool(ramp, *args, count_padding=True).ravel(), [2, 3.5])
    ones = jnp.ones((1, 3, 3, 1))
    counted = avg_pool(ones, 3, 1, 1, count_padding=True)[0, :, :, 0]
    np.testing.assert_allclose(counted * 9, [[4, 6, 4], [6, 9, 6], [4, 6, 4]], rtol=1e-6)
    np.testing.assert_allclose(avg_pool(ones, 3, 1, 1), jnp.ones((1, 3, 3, 1)), rtol=1e-6)


def test_padding_never_is_the_maximum():
    images = jnp.full((1, 4, 4, 2), -7.0)
    np.testing.assert_array_equal(max_pool(images, 3, 2, 1), jnp.full((1, 2, 2, 2), -7.0))


def test_max_pool_gradient_of_a_window_of_144():
    images = jnp.asarray(RNG.standard_normal((1, 13, 12, 2)), jnp.float32)
    gradient = jit(jax.grad(lambda x: jnp.sum(max_pool(x, 12, 1))))(images)
    expected = np.zeros(images.shape)
    for row in range(2):
        for channel in range(2):
            window = np.asarray(images[0, row : row + 12, :, channel])
            i, j = np.unravel_index(window.argmax(), window.shape)
            expected[0, row + i, j, channel] += 1
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize('pool', [max_pool, avg_pool])
def test_bfloat16_stays_bfloat16(pool):
    images = jnp.asarray(RNG.standard_normal((2, 6, 6, 3)), jnp.bfloat16)
    out, gradient = jit(jax.value_and_grad(lambda x: jnp.sum(pool(x, 3, 2, 'SAME'))))(images)
    assert out.dtype == gradient.dtype == jnp.bfloat16
    kind = 'max' if pool is max_pool else 'avg'
    expected = loops(np.asarray(images, np.float32), 3, 2, 'SAME', False, kind)
    np.testing.assert_allclose(
        np.asarray(jit(lambda x: pool(x, 3, 2, 'SAME'))(images), np.float32),
        expected,
        atol=0.03,
    )


@pytest.mark.parametrize('pool', [max_pool, avg_pool])
def test_vmap(pool):
    images = jnp.asarray(RNG.standard_normal((3, 2, 5, 6, 2)), jnp.float32)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(pool(x, 3, 2, 'SAME') ** 2))(x)

    mapped, each = jit(lambda x: (jax.vmap(gradient)(x), [gradient(y) for y in x]))(images)
    np.testing.assert_allclose(mapped, jnp.stack(each), rtol=1e-5, atol=1e-6)

"""Convolution against XLA's own, with paddings computed here."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from jax import lax

from cls.nn.conv import Conv, conv
from cls.nn.cpu import compact
from cls.nn.pool import avg_pool, max_pool

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
RNG = np.random.default_rng(0)


def pads_along(padding, n, k, stride, dilation):
    """Returns (before, after) along one axis, from the definition of the convention."""
    extent = dilation * (k - 1) + 1
    if padding is None:
        return (dilation * (k - 1) // 2,) * 2
    if padding == 'SAME':
        total = max((-(-n // stride) - 1) * stride + extent - n, 0)
        return total // 2, total - total // 2
    return {'VALID': (0, 0)}.get(padding, padding)


def two(value):
    return value if isinstance(value, tuple) else (value, value)


def reference(images, kernel, pads, strides, dilation, groups):
    return lax.conv_general_dilated(
        images,
        kernel,
        two(strides),
        pads,
        rhs_dilation=two(dilation),
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
    )


def expand(padding, size, kernel, strides, dilation):
    """Returns the explicit ((top, bottom), (left, right)) of a padding of `conv`."""
    if isinstance(padding, int):
        return ((padding, padding),) * 2
    if isinstance(padding, tuple):
        return tuple(two(along) for along in padding)
    along = zip(size, two(kernel), two(strides), two(dilation), strict=True)
    return tuple(pads_along(padding, *a) for a in along)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def close(ours, theirs, tolerance=2e-5):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=tolerance * max(1, np.abs(other).max()), rtol=0)


def values_and_gradients(f):
    def both(images, kernel, cotangent):
        out, pull = jax.vjp(f, images, kernel)
        return out, *pull(cotangent.astype(out.dtype))

    return both


GROUPS = {  # in channels, groups, out channels
    'dense': (3, 1, 4),
    'depthwise': (4, 4, 4),
    'grouped': (4, 2, 6),
    'multiplier': (3, 3, 6),  # two kernels for each channel
    'wide groups': (144, 2, 120),  # too wide for a dense convolution on CPU
    'single': (1, 1, 1),
}
# kernel, strides, padding, dilation, (height, width)
FORMS = [
    (1, 1, None, 1, (5, 6)),
    (1, 2, 'SAME', 1, (6, 7)),
    (1, 3, 'VALID', 1, (7, 8)),
    (1, 2, 1, 1, (5, 6)),
    (1, (2, 1), None, 1, (5, 5)),
    (2, 1, 'SAME', 1, (5, 6)),
    (2, 2, None, 1, (7, 6)),
    (3, 1, None, 1, (5, 6)),
    (3, 2, None, 1, (6, 7)),
    (3, 2, 'SAME', 1, (6, 7)),
    (3, 2, 'VALID', 1, (6, 8)),  # no window sees the last row and column
    (3, 3, 'SAME', 1, (8, 7)),
    (3, 1, 'SAME', 2, (7, 6)),
    (3, 2, None, 2, (9, 8)),
    (3, 1, 4, 1, (4, 5)),  # more than k - 1 pixels of padding: the gradient crops
    (3, 2, (0, 2), 1, (6, 5)),
    (3, 1, ((1, 0), (0, 2)), 1, (5, 5)),
    (5, 2, 'SAME', 1, (6, 9)),
    (5, 1, ((3, 1), (0, 4)), 2, (10, 9)),
    (7, 3, None, 1, (9, 10)),
    (7, 2, 'SAME', 1, (3, 4)),  # larger than the image
    ((1, 7), (1, 2), 'SAME', 1, (5, 8)),
    ((7, 1), (2, 1), None, 1, (8, 5)),
    ((3, 2), (1, 3), 'VALID', (2, 1), (7, 8)),
]
CASES = [
    *itertools.product(['depthwise'], FORMS),
    *itertools.product(['dense'], FORMS[1:8:2] + FORMS[12:14]),
    *itertools.product(['grouped', 'multiplier'], [FORMS[0], FORMS[9], FORMS[18]]),
    *itertools.product(['wide groups'], [FORMS[1], FORMS[9], FORMS[14]]),
    ('grouped', FORMS[20]),
    *itertools.product(['single'], [FORMS[1], FORMS[8]]),
]


@pytest.mark.parametrize(('kind', 'form'), CASES)
def test_values_and_gradients_are_xlas(kind, form):
    window, strides, padding, dilation, size = form
    channels, groups, features = GROUPS[kind]
    images = normal(2, *size, channels)
    kernel = normal(*two(window), channels // groups, features)
    pads = expand(padding, size, window, strides, dilation)

    def ours(images, kernel):
        return conv(
            images, kernel, strides=strides, padding=padding, groups=groups, dilation=dilation
        )

    def theirs(images, kernel):
        return reference(images, kernel, pads, strides, dilation, groups)

    cotangent = normal(*jax.eval_shape(theirs, images, kernel).shape)
    both = jit(lambda *args: [values_and_gradients(f)(*args) for f in (ours, theirs)])
    close(*both(images, kernel, cotangent))


@pytest.mark.parametrize(
    ('kind', 'window'), [('dense', 1), ('depthwise', 3), ('grouped', 3), ('wide groups', 3)]
)
def test_bfloat16_stays_bfloat16(kind, window):
    channels, groups, features = GROUPS[kind]
    images = normal(2, 6, 5, channels).astype(jnp.bfloat16)
    kernel = normal(window, window, channels // groups, features).astype(jnp.bfloat16)
    cotangent = normal(2, 3, 3, features)
    pads = ((window // 2, window // 2),) * 2

    def ours(images, kernel):
        return conv(images, kernel, strides=2, groups=groups)

    def theirs(images, kernel):
        return reference(images, kernel, pads, 2, 1, groups)

    low = jit(values_and_gradients(ours))(images, kernel, cotangent)
    assert {x.dtype for x in low} == {jnp.dtype(jnp.bfloat16)}
    high = (x.astype(jnp.float32) for x in (images, kernel, cotangent.astype(jnp.bfloat16)))
    close(low, jit(values_and_gradients(theirs))(*high), tolerance=0.02)


@pytest.mark.parametrize(
    ('kind', 'axes'),
    [('dense', (0, 0)), *(('depthwise', axes) for axes in ((0, None), (None, 0), (0, 0)))],
)
def test_vmap(kind, axes):
    channels, groups, features = GROUPS[kind]
    window = 3 if kind == 'depthwise' else 1
    images = normal(3, 2, 5, 6, channels)
    kernel = normal(3, window, window, channels // groups, features)
    cotangent = normal(2, 3, 3, features)
    pads = ((window // 2, window // 2),) * 2

    def ours(images, kernel):
        return conv(images, kernel, strides=2, groups=groups)

    def theirs(images, kernel):
        return reference(images, kernel, pads, 2, 1, groups)

    args = [x if axis == 0 else x[0] for x, axis in zip((images, kernel), axes, strict=True)]
    mapped = jit(jax.vmap(values_and_gradients(ours), (*axes, None)))(*args, cotangent)
    one = jit(values_and_gradients(theirs))
    for i in range(3):
        each = [x[i] if axis == 0 else x for x, axis in zip(args, axes, strict=True)]
        close([m[i] for m in mapped], one(*each, cotangent))


@pytest.mark.parametrize('kind', ['dense', 'depthwise', 'grouped', 'wide groups'])
def test_second_derivatives(kind):
    """Gradients can be differentiated, as in bilevel searches."""
    channels, groups, features = GROUPS[kind]
    window = 1 if kind == 'dense' else 3
    images, kernel = normal(2, 5, 5, channels), normal(window, window, channels // groups, features)
    pads = ((window // 2, window // 2),) * 2

    def penalty(f):
        def inner(kernel):
            return jnp.sum(jax.grad(lambda images: jnp.sum(f(images, kernel) ** 3))(images) ** 2)

        return jax.grad(inner)

    def ours(images, kernel):
        return conv(images, kernel, strides=2, groups=groups)

    def theirs(images, kernel):
        return reference(images, kernel, pads, 2, 1, groups)

    close(*jit(lambda k: [penalty(f)(k) for f in (ours, theirs)])(kernel))


def test_module_parameters_and_bias():
    layer = Conv(6, (3, 1), (2, 1), groups=2, use_bias=True, dtype=jnp.bfloat16)
    images = normal(2, 7, 5, 4)
    params = jit(layer.init)(jax.random.key(0), images)['params']
    assert jax.tree.map(jnp.shape, params) == {'kernel': (3, 1, 2, 6), 'bias': (6,)}
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    params['bias'] = jnp.arange(6.0)
    out = jit(layer.apply)({'params': params}, images)
    assert out.dtype == jnp.bfloat16
    pads = ((1, 1), (0, 0))
    plain = jit(lambda x, k: reference(x, k, pads, (2, 1), 1, 2))(images, params['kernel'])
    close(out, plain + np.arange(6.0), tolerance=0.02)
    assert 'bias' not in jax.eval_shape(Conv(6).init, jax.random.key(0), images)['params']


@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('window', [1, 3])
def test_negative_padding_crops(groups, window):
    """XLA's own gradients of the kernel are wrong on CPU."""
    images, kernel = normal(2, 9, 8, 4), normal(window, window, 4 // groups, 8)

    def ours(x, w):
        return jnp.sum(jnp.sin(conv(x, w, padding=((-2, 1), (0, -3)), groups=groups)))

    def cropped(x, w):
        pads = ((0, 1), (0, 0))
        return jnp.sum(jnp.sin(reference(x[:, 2:, :-3], w, pads, 1, 1, groups)))

    value = jit(jax.value_and_grad(ours, (0, 1)))(images, kernel)
    close(value, jit(jax.value_and_grad(cropped, (0, 1)))(images, kernel))


@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('shape', [(0, 5, 5, 4), (2, 1, 1, 4), (2, 0, 5, 4)])
@pytest.mark.parametrize('few', [False, True])
def test_results_without_elements_are_xlas(groups, shape, few):
    """Of an empty batch, and of windows larger than the images."""
    images, kernel = jnp.ones(shape), normal(3, 3, 4 // groups, 8)
    with compact.few_operations() if few else contextlib.nullcontext():
        out = conv(images, kernel, padding='VALID', groups=groups)
        pools = [max_pool(images, 3, 2), avg_pool(images, 3, 2)]
    expected = reference(images, kernel, ((0, 0), (0, 0)), 1, 1, groups)
    assert out.shape == expected.shape
    assert out.size == 0
    assert [x.shape for x in pools] == [
        (shape[0], *(max(n - 1, 0) // 2 for n in shape[1:3]), 4)
    ] * 2

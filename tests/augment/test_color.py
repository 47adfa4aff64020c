"""Changes of color against torchvision, TensorFlow and the standard library."""

import colorsys
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from cls.augment import color, warp
from cls.steps.train_step import normalize

TORCH, TENSORFLOW = (
    np.load(Path(__file__).parent / f'{name}.npz') for name in ('torch', 'tensorflow')
)


def drawing(monkeypatch, numbers):
    """Replaces the draws of color.uniform by these numbers."""
    numbers = np.float32(numbers)
    monkeypatch.setattr(color, 'uniform', lambda keys, shape: jnp.asarray(numbers))


@pytest.fixture(params=['cpu', 'elsewhere'])
def form(request, monkeypatch):
    """On CPUs a loop over images, elsewhere the batch at once; both are compiled for the CPU."""
    if request.param == 'elsewhere':
        at_once = lambda *args, cpu, default: default(*args)  # noqa: E731
        monkeypatch.setattr(jax.lax, 'platform_dependent', at_once)


def repeated(image, n):
    return jnp.tile(jnp.float32(image), (n, 1, 1, 1))


@pytest.mark.usefixtures('form')
def test_jitter_in_every_order_is_torchvisions(monkeypatch):
    """Factors 1.3, 0.4, 1.6 and a shift by -0.23, in ranges of 1, 1, 1 and 0.5."""
    fixed = [(factor - 0) / 2 for factor in (1.3, 0.4, 1.6)] + [(-0.23 / 0.5 + 1) / 2]
    orders = list(itertools.permutations(range(4)))  # brightness, saturation, contrast, hue
    rows = [[*fixed, *np.argsort(order) / 4] for order in orders]
    drawing(monkeypatch, rows)
    images = repeated(TORCH['jitter_image'], 24)
    ours = jit(lambda x: color.jitter(x, None, 1.0, 1.0, 1.0, 0.5))(images)
    np.testing.assert_allclose(ours, TORCH['jittered'], atol=0.05)
    assert len(np.unique(np.round(TORCH['jittered'], 2), axis=0)) == 24


@pytest.mark.parametrize(
    ('ranges', 'expected'),
    [
        ((0.4, 0.0, 0.0, 0.0), lambda x: x * 1.2),
        ((3.0, 0.0, 0.0, 0.0), lambda x: x * 3.0),  # from 0, not from -2
        ((0.0, 0.4, 0.0, 0.0), lambda x: x.mean() * -0.2 + x * 1.2),
        ((0.0, 0.0, 0.4, 0.0), lambda x: x),
        ((0.0, 0.0, 0.0, 0.5), lambda x: x),
    ],
)
def test_ranges_of_jitter_and_what_a_gray_image_keeps(ranges, expected, monkeypatch):
    drawing(monkeypatch, np.full((1, 8), 0.75))
    image = np.array([[10.0, 60.0], [30.0, 200.0]])
    jitter = jit(lambda x: color.jitter(x, None, *ranges))
    ours = jitter(jnp.float32(image).reshape(1, 2, 2, 1))
    expected = np.clip(expected(image), 0, 255)
    np.testing.assert_allclose(ours[0, ..., 0], expected, rtol=1e-5)


@pytest.mark.usefixtures('form')
def test_distortions_in_every_order_are_those_of_tensorflow(monkeypatch):
    fixed = [(-30 / 32 + 1) / 2, 1.45 - 0.5, 1.35 - 0.5, (0.17 / 0.2 + 1) / 2]
    drawing(monkeypatch, [[*fixed, (i + 0.5) / 4] for i in range(4)])
    images = repeated(TENSORFLOW['image'], 4)
    ours = jit(lambda x: color.inception(x, None))(images)
    np.testing.assert_allclose(ours, TENSORFLOW['distorted'][:4], atol=0.02)
    fast = jit(lambda x: color.inception(x, None, fast=True))(images)
    np.testing.assert_allclose(fast[0], TENSORFLOW['distorted'][4], atol=0.02)


def test_hue_saturation_and_lightness_against_the_standard_library():
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(40, 5, 5, 3)).astype(np.float32)
    images[0] = 9.0  # gray
    images[1, 0, 0], images[1, 0, 1] = 0, 255
    shifts = rng.uniform(-1, 1, size=(40, 3)).astype(np.float32) * [0.2, 0.2, 0.2]
    ours = np.asarray(jit(color.shift_hsl)(images, shifts))
    for i, (h, s, v) in enumerate(shifts):
        for j, pixel in enumerate(images[i].reshape(-1, 3) / 255):
            hue, light, saturation = colorsys.rgb_to_hls(*map(float, pixel))
            moved = np.clip([hue + h, light + v, saturation + s], 0, 1)
            expected = 255 * np.array(colorsys.hls_to_rgb(*moved))
            np.testing.assert_allclose(ours[i].reshape(-1, 3)[j], expected, atol=0.02)


def test_lighting_has_the_published_covariance():
    amounts = 0.1 * np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    added = np.asarray(color.light(jnp.full((20_000, 1, 1, 3), 100.0), amounts))[:, 0, 0] - 100
    vectors, values = np.array(color.EIGENVECTORS), np.array(color.EIGENVALUES)
    expected = (25.5**2) * vectors @ np.diag(values**2) @ vectors.T
    np.testing.assert_allclose(np.cov(added.T), expected, rtol=0.05)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-4)  # none is mistyped


def test_rotation_is_torchvisions():
    angles = jnp.array([-10.0, 3.3, 90.0, 180.0])
    images = repeated(TORCH['warp_image'], 4)
    ours = jit(lambda x: warp.bilinear(x, warp.rotation(angles, 16, 16), 0.0))(images)
    np.testing.assert_allclose(ours, TORCH['rotated'], atol=0.05)


def test_global_contrast_is_tensorflows_and_mean_and_deviation_follow():
    images = jnp.asarray(TENSORFLOW['plain'])  # one of them flat, one nearly
    ours = normalize(images, (0.0,), (1.0,), 'global')
    np.testing.assert_allclose(ours, TENSORFLOW['standard'], atol=5e-5)
    scaled = normalize(images, (0.5,), (0.25,), 'global')
    np.testing.assert_allclose(scaled, (TENSORFLOW['standard'] - 0.5) / 0.25, atol=2e-4)

"""Erasing and mixing against timm's rectangles, closed forms and distributions."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from compiling import jit

from cls.augment import erase, mix

TORCH = np.load(Path(__file__).parent / 'torch.npz')


def keys(n):
    return jax.random.split(jax.random.key(0), n)


@pytest.mark.parametrize('side', [1, 4, 16, 40])
def test_cutout_blanks_a_square_centered_at_any_pixel(side):
    n, size = 400, 12
    images = jnp.ones((n, size, size, 2))
    blank = np.asarray(jit(lambda x, k: erase.cutout(x, k, side))(images, keys(n))) == 0
    half = side // 2
    places = [range(max(c - half, 0), min(c + half, size)) for c in range(size)]
    allowed = {(tuple(rows), tuple(columns)) for rows in places for columns in places}
    seen = set()
    for mask in blank:
        assert (mask[..., 0] == mask[..., 1]).all()
        mask = mask[..., 0]
        rows, columns = (tuple(np.flatnonzero(mask.any(axis))) for axis in (1, 0))
        assert (mask == np.outer(mask.any(1), mask.any(0))).all()
        assert (rows, columns) in allowed
        seen.add((rows, columns))
    assert len(seen) > 0.85 * len(allowed)


def test_rectangles_are_timms_for_the_same_numbers():
    corners = jit(lambda x: erase.rectangles(x, 18, 14))(TORCH['erasing_numbers'])
    masks = erase.inside((40, 18, 14, 1), corners)[..., 0]
    np.testing.assert_array_equal(masks, TORCH['erased'])
    assert not masks[0].any()
    assert masks[1:].any((1, 2)).mean() > 0.9


@pytest.mark.parametrize('fill', ['noise', pytest.param('mean', marks=pytest.mark.sweep)])
def test_a_share_of_images_is_erased_and_filled(fill):
    n = 400
    run = jit(lambda x, k: erase.random_erasing(x, k, 0.25, fill))
    images = np.asarray(run(jnp.full((n, 8, 8, 1), 50.0), keys(n)))
    erased = (images != 50).any((1, 2, 3))
    assert abs(erased.mean() - 0.25) < 0.07
    values = images[images != 50]
    expected = {'noise': (0, 1), 'mean': (0, 0)}[fill]
    np.testing.assert_allclose((values.mean(), values.std()), expected, atol=0.1)
    assert len(np.unique(values)) > 0.9 * len(values) or fill == 'mean'


def pasted(share, center, height, width):
    """Returns the rectangle of the released code, with rows and columns in this order."""
    ratio = np.sqrt(1 - share)
    tall, wide = int(height * ratio), int(width * ratio)
    y, x = int(center[0] * height), int(center[1] * width)
    rows = slice(*np.clip([y - tall // 2, y + tall // 2], 0, height))
    return rows, slice(*np.clip([x - wide // 2, x + wide // 2], 0, width))


def test_cutmix_pastes_a_rectangle_and_weighs_labels_by_its_pixels():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(5, 12, 9, 2)).astype(np.float32)
    cutmix = jit(mix.cutmix)
    for share in (0.03, 0.3, 0.77, 0.999):
        for center in rng.uniform(size=(4, 2)).astype(np.float32):
            ours, kept = cutmix(images, np.float32(share), center)
            expected = images.copy()
            rows, columns = pasted(share, center, 12, 9)
            expected[:, rows, columns] = images[[4, 0, 1, 2, 3]][:, rows, columns]
            np.testing.assert_array_equal(ours, expected)
            own = (np.asarray(ours)[0] == images[0]).all(-1).mean()
            np.testing.assert_allclose(kept, own, rtol=1e-6)


@pytest.mark.parametrize(
    ('mixup', 'cutmix'),
    [
        pytest.param(0.4, 0.0, marks=pytest.mark.sweep),
        pytest.param(0.0, 1.0, marks=pytest.mark.sweep),
        (0.4, 1.0),
    ],
)
def test_labels_are_mixed_as_images_are(mixup, cutmix):
    """Image i has the value 2^i everywhere, so that its share of a pixel can be read."""
    n = 4
    images = jnp.broadcast_to(2.0 ** jnp.arange(n)[:, None, None, None], (n, 8, 8, 1))
    run = jit(jax.vmap(lambda key: mix.mix(images, jnp.eye(n), key, mixup, cutmix)))
    mixed, targets = map(np.asarray, run(keys(500)))
    own = targets[:, 0, 0]
    values = np.array([2.0**i for i in range(n)])
    for i in range(n):
        np.testing.assert_allclose(targets[:, i, i], own, rtol=1e-6)
        np.testing.assert_allclose(targets[:, i, i - 1], 1 - own, atol=1e-6)
        expected = own * values[i] + (1 - own) * values[i - 1]
        np.testing.assert_allclose(mixed[:, i].mean((1, 2, 3)), expected, rtol=1e-4)
    smooth = mixed[:, 0].std((1, 2, 3)) < 1e-6  # one value: mixup, or an empty rectangle
    if mixup and cutmix:
        assert 0.4 < smooth.mean() < 0.7
    else:
        assert smooth.all() == bool(mixup)


@pytest.mark.parametrize('alpha', [0.05, 0.2, 0.5, 1.0, 8.0])
def test_shares_have_scipys_distribution(alpha):
    n = 20_000
    shares = np.sort(jit(jax.vmap(lambda key: mix.beta(key, alpha)))(keys(n)))
    assert np.isfinite(shares).all()
    # Kolmogorov and Smirnov: above 1.95 / sqrt(n) with probability 0.001
    expected = scipy.stats.beta.cdf(np.float64(shares), alpha, alpha)
    inner = (shares > 1e-6) & (shares < 1 - 1e-6)
    distance = np.abs(expected - (np.arange(n) + 0.5) / n)[inner].max()
    assert distance < 1.95 / n**0.5


def test_noise_is_the_same_if_only_erased_images_draw_it(monkeypatch):
    """On a CPU only erased images draw noise; elsewhere all do."""
    images = jnp.full((40, 8, 8, 3), 50.0)

    def run():
        return jit(lambda x, k: erase.random_erasing(x, k, 0.5, 'noise'))(images, keys(40))

    alone = run()
    at_once = lambda *args, cpu, default: default(*args)  # noqa: E731
    monkeypatch.setattr(jax.lax, 'platform_dependent', at_once)
    np.testing.assert_allclose(alone, run(), rtol=1e-5, atol=1e-6)

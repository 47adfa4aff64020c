"""Augmentation of batches on one device and many, alone and in the training step."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import jit

from cls.augment.apply import apply
from cls.augment.spec import AugmentSpec
from cls.steps import sharding as meshes
from cls.steps import train_step
from cls.steps.state import new_state
from cls.steps.train_step import Recipe, make_train_step, normalize

EVERYTHING = AugmentSpec(
    policy='autoaugment_svhn',
    rotation=10.0,
    distortion='inception',
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    hsl=(36.0, 50.0, 50.0),
    lighting=0.1,
    noise=20.0,
    cutout=4,
    erasing=0.25,
    mixup=0.2,
    cutmix=1.0,
)


def batch(n=16, size=8, channels=3):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(n, size, size, channels)).astype(np.uint8)
    return images, rng.integers(5, size=n).astype(np.int32)


def scaled(images):
    return normalize(images, (120.0,), (60.0,))


def sharding_of(count):
    return meshes.batch_sharding(meshes.make_mesh(1, jax.devices()[:count]))


def on_devices(augment, count):
    """Returns images and labels augmented on `count` devices, and the text of the program."""
    sharding = sharding_of(count)
    run = jit(lambda x, y: apply(augment, x, y, jax.random.key(3), scaled, 5, sharding))
    inputs = jax.device_put(batch(), sharding)
    compiled = run.lower(*inputs).compile()
    return jax.tree.map(np.asarray, compiled(*inputs)), compiled.as_text()


@pytest.mark.sweep  # compiles for 15 s
def test_everything_is_the_same_on_eight_devices():
    (images, targets), _ = on_devices(EVERYTHING, 1)
    (others, other_targets), _ = on_devices(EVERYTHING, 8)
    np.testing.assert_allclose(others, images, atol=1e-4)
    np.testing.assert_allclose(other_targets, targets, atol=1e-6)
    assert images.dtype == targets.dtype == np.float32
    assert np.isfinite(images).all()
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.sweep  # as long
def test_no_device_needs_anothers_images_for_a_policy():
    augment = AugmentSpec(policy='randaugment', cutout=2)
    (images, _), _ = on_devices(augment, 1)
    (others, _), text = on_devices(augment, 4)
    np.testing.assert_array_equal(others, images)
    for exchange in ('all-gather', 'all-to-all', 'all-reduce', 'collective-permute'):
        assert exchange not in text


def test_without_operations_a_batch_is_only_normalized():
    images, labels = batch()
    ours, same = apply(AugmentSpec(), images, labels, jax.random.key(0), scaled, 5, sharding_of(1))
    np.testing.assert_array_equal(ours, scaled(images))
    assert same is labels
    assert not AugmentSpec().active
    assert not AugmentSpec(layers=3, magnitude=2.0, erasing_fill='mean').active
    for field in dataclasses.fields(AugmentSpec):
        if field.name not in ('layers', 'magnitude', 'magnitude_std', 'erasing_fill'):
            on = dataclasses.replace(AugmentSpec(), **{field.name: getattr(EVERYTHING, field.name)})
            assert on.active, field.name


@pytest.mark.parametrize(
    ('fields', 'low', 'high', 'moments'),
    [
        ({'noise': 20.0}, 80, 120, (100, 20 / 3**0.5)),
        pytest.param(
            {'distortion': 'inception_fast'}, 68, 132, (100, 32 / 3**0.5), marks=pytest.mark.sweep
        ),
        pytest.param({'brightness': 0.4}, 60, 140, (100, 40 / 3**0.5), marks=pytest.mark.sweep),
        ({'hsl': (0.0, 0.0, 50.0)}, 50, 150, (100, 50 / 3**0.5)),
    ],
)
def test_ranges_of_uniform_draws(fields, low, high, moments):
    images = np.full((800, 1, 1, 3), 100, np.uint8)
    labels = np.zeros(800, np.int32)
    augment, sharding = AugmentSpec(**fields), sharding_of(1)
    run = jit(lambda x, k: apply(augment, x, labels, k, jnp.float32, 5, sharding)[0])
    results = np.asarray(run(images, jax.random.key(0)))
    assert low - 1e-3 <= results.min() < low + 2
    assert high - 2 < results.max() <= high + 1e-3
    np.testing.assert_allclose((results.mean(), results.std()), moments, rtol=0.07)
    assert (results[..., 0] != results[..., 1]).any() == ('noise' in fields)


class Classes(nn.Module):
    """A model whose logits are the first five values of an image."""

    num_classes: int = 5

    @nn.compact
    def __call__(self, images, train=False):
        scale = self.param('scale', nn.initializers.ones, (1,))
        return scale * images.reshape(len(images), -1)[:, :5]


@functools.partial(jit, static_argnums=0)
def augmented(augment, images, labels, key):
    return apply(augment, images, labels, key, scaled, 5, sharding_of(1))


@pytest.mark.parametrize(
    ('devices', 'accumulate'), [pytest.param(8, 1, marks=pytest.mark.sweep), (2, 4)]
)
def test_a_step_learns_from_the_mixed_labels(devices, accumulate):
    """The loss and top-1 of the step are those of the batch that `apply` returns for its key."""
    augment = AugmentSpec(mixup=0.4, cutout=4)
    mesh = meshes.make_mesh(1, jax.devices()[:devices])
    recipe = Recipe(10, (120.0,), (60.0,), False, 0.1, 0.0, accumulate, 0.0, augment=augment)
    optimizer = optax.sgd(0.0)
    step = jit(make_train_step(Classes(), optimizer, recipe, meshes.batch_sharding(mesh)))
    state = new_state({'params': {'scale': np.ones(1, np.float32)}}, optimizer, 0, ema=False)
    images, labels = batch(n=32)
    inputs = {'image': images, 'label': labels, 'mask': np.ones(32, bool)}
    _, metrics = step(state, jax.device_put(inputs, meshes.batch_sharding(mesh)))
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), 0)
    mixed, targets = augmented(augment, images, labels, jax.random.fold_in(key, 2))
    logits = np.float64(mixed.reshape(32, -1)[:, :5])
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    smoothed = 0.9 * np.float64(targets) + 0.1 / 5
    assert float(metrics['loss']) == pytest.approx(-(smoothed * logs).sum(1).mean(), rel=1e-5)
    top1 = 100 * (logits.argmax(1) == np.asarray(targets).argmax(1)).mean()
    assert float(metrics['top1']) == pytest.approx(top1)


def test_without_augmentation_the_step_is_the_one_without_this_package(monkeypatch):
    """`apply` is not called, and the keys of flips and dropout are the same."""
    monkeypatch.setattr(train_step, 'apply', None)
    mesh = meshes.make_mesh(1, jax.devices()[:1])
    recipe = Recipe(10, (120.0,), (60.0,), True, 0.1, 0.0, 1, 0.0)
    optimizer = optax.sgd(0.0)
    step = make_train_step(Classes(), optimizer, recipe, meshes.batch_sharding(mesh))
    state = new_state({'params': {'scale': np.ones(1, np.float32)}}, optimizer, 0, ema=False)
    images, labels = batch()
    text = str(jax.make_jaxpr(step)(state, {'image': images, 'label': labels}))
    assert text.count('random_fold_in') == 2  # of the step, and of the microbatch
    keys = jax.random.split(jax.random.key(1), 2), jax.random.key(1)
    for i in range(2):  # split gives the keys of fold_in by 0 and 1; augmentation folds in 2
        assert (keys[0][i] == jax.random.fold_in(keys[1], i)).all()

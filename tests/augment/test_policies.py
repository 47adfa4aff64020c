"""Policies against torchvision's and timm's tables and pictures, and the distribution of draws."""

import collections
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from cls.augment import operations, policies
from cls.augment.operations import OPERATIONS

ORACLE = np.load(Path(__file__).parent / 'torch.npz')
NAMES = {  # theirs to ours
    'AutoContrast': 'auto_contrast',
    'SolarizeAdd': 'solarize_add',
    **{f'{theirs}{axis}': f'{ours}_{axis.lower()}' for theirs, ours in
       (('Shear', 'shear'), ('Translate', 'translate')) for axis in 'XY'},
}  # fmt: skip


def our_name(theirs):
    for suffix in ('Rel', 'Original', 'Increasing'):
        theirs = theirs.removesuffix(suffix)
    return NAMES.get(theirs, theirs.lower())


@pytest.mark.parametrize('policy', list(policies.TABLES))
def test_the_tables_are_the_published(policy):
    tables = json.loads(str(ORACLE['tables']))
    ours = policies.sub_policies(policy)
    assert len(ours) == 25
    names = {'autoaugment_imagenet': ('imagenet', 'original')}.get(policy, (policy.split('_')[1],))
    for name in names:
        for row, theirs in zip(ours, tables[name], strict=True):
            for (op, chance, magnitude), (their_op, their_chance, level) in zip(
                row, theirs, strict=True
            ):
                assert (op, chance) == (our_name(their_op), their_chance)
                assert level is None or level == magnitude


@pytest.mark.parametrize(
    'policy', ['imagenet', *(pytest.param(x, marks=pytest.mark.sweep) for x in ('cifar10', 'svhn'))]
)
def test_both_operations_of_every_sub_policy_make_torchvisions_picture(policy):
    images = jnp.tile(ORACLE['policy_image'], (25, 1, 1, 1))
    chosen, arguments = policies.arrays(f'autoaugment_{policy}', images.shape)
    sign = np.where(np.arange(25) % 2 == 0, -1, 1)[:, None]  # as for torchvision in make_fixtures
    argument = arguments[..., 0] + sign * arguments[..., 1]
    # Torchvision translates in the opposite direction; both signs have the same probability.
    shifts = np.isin(chosen, [OPERATIONS.index(f'translate_{axis}') for axis in 'xy'])
    argument = np.where(shifts, -argument, argument)
    names = {OPERATIONS[i] for i in chosen.ravel()}
    operate = jit(lambda *inputs: operations.operate_in_turn(*inputs, names))
    images = operate(images, chosen, argument, jnp.zeros((25, 2, 2)))
    different = np.abs(np.int32(images) - ORACLE[policy]).max(-1)
    # A shear by 0.2 (SVHN's 20th) samples every fifth row exactly between two pixels.
    assert (different > 2).mean((1, 2)).max() < 0.14
    assert (different > 2).mean() < 0.01
    assert (different > 0).mean() < 0.01


@pytest.mark.parametrize(
    ('policy', 'theirs'),
    [
        ('randaugment', '_RAND_TRANSFORMS'),
        ('randaugment_increasing', '_RAND_INCREASING_TRANSFORMS'),
    ],
)
def test_arguments_at_every_magnitude_are_timms(policy, theirs):
    reading, _ = policies.RANDOM[policy]
    table = {our_name(name): (name, row) for name, row in json.loads(str(ORACLE[theirs])).items()}
    assert set(reading) - set(table) == ({'cutout'} if policy == 'randaugment' else set())
    magnitudes = jnp.arange(11.0)
    for name, (their_name, row) in table.items():
        row = np.array(row) * (224 if their_name.endswith('Rel') else 1)
        for m in (magnitudes, np.arange(11.0)):
            base, spread = reading[name](m, 224)
            np.testing.assert_allclose(base + spread, row, atol=1e-4, err_msg=name)


def test_cutout_and_published_sides():
    reading, _ = policies.RANDOM['randaugment']
    assert reading['cutout'](9.0, 224) == (36, 0)  # of 40 pixels
    assert policies.TABLES['autoaugment_cifar10'][1]['translate_x'](9, 32) == (0, 14)  # 150 / 331


def record(monkeypatch, policy, n):
    """Returns the operations (L, n) and arguments that a policy draws for n images."""
    monkeypatch.setattr(policies, 'operate_in_turn', lambda *args: (args[1].T, args[2].T))
    images, keys = jnp.zeros((n, 32, 32, 3), jnp.uint8), jax.random.split(jax.random.key(0), n)
    if policy in policies.TABLES:
        return jax.device_get(jit(lambda: policies.auto_augment(images, keys, policy))())
    draw = jit(lambda: policies.rand_augment(images, keys, policy, 2, 9.0, 0.5))
    return jax.device_get(draw())


def test_sub_policies_are_drawn_evenly_and_their_operations_with_their_chances(monkeypatch):
    n = 20_000
    policy = 'autoaugment_cifar10'
    operation, arguments = record(monkeypatch, policy, n)
    for i in range(2):
        expected = collections.Counter()
        for row in policies.sub_policies(policy):
            expected[row[i][0]] += row[i][1] / 25
            expected['identity'] += (1 - row[i][1]) / 25
        shares = np.bincount(operation[i], minlength=len(OPERATIONS)) / n
        for name, share in zip(OPERATIONS, shares, strict=True):
            assert abs(share - expected[name]) < 0.015, name
    shifts = arguments[0][operation[0] == OPERATIONS.index('translate_y')]
    assert abs((shifts > 0).mean() - 0.5) < 0.03


def test_randaugment_draws_every_operation_and_sign_evenly(monkeypatch):
    n = 20_000
    operation, arguments = record(monkeypatch, 'randaugment_increasing', n)
    assert operation.shape == (2, n)
    names = list(policies.RANDOM['randaugment_increasing'][0])
    for layer in range(2):
        for name in names:
            share = (operation[layer] == OPERATIONS.index(name)).mean()
            assert abs(share - 0.5 / len(names)) < 0.01, name
        assert abs((operation[layer] == 0).mean() - 0.5) < 0.02
    assert abs((operation[0] == operation[1])[operation[0] > 0].mean() - 0.5 / len(names)) < 0.01
    degrees = arguments[operation == OPERATIONS.index('rotate')]
    assert abs((degrees > 0).mean() - 0.5) < 0.05
    level = np.abs(degrees) / 3
    assert abs(level.mean() - 9) < 0.1
    assert abs(level.std() - 0.48) < 0.05  # 0.5, cut at 10
    assert level.max() <= 10 + 1e-5


# Torchvision's TrivialAugmentWide: the largest magnitude, and whether it has a sign.
WIDE = {
    'identity': (0, False),
    'shear_x': (0.99, True),
    'shear_y': (0.99, True),
    'translate_x': (32, True),
    'translate_y': (32, True),
    'rotate': (135, True),
    'brightness': (0.99, True),
    'color': (0.99, True),
    'contrast': (0.99, True),
    'sharpness': (0.99, True),
    'posterize': (6, False),  # bits that are cleared
    'solarize': (255, False),  # subtracted from 255
    'auto_contrast': (0, False),
    'equalize': (0, False),
}


def wide_arguments(name, level):
    """Returns the arguments that torchvision has for an operation at a level of 0..30."""
    most, signed = WIDE[name]
    magnitude = np.linspace(0, most, 31)[level]
    if name.startswith('translate'):
        magnitude = int(magnitude)
    if name in ('brightness', 'color', 'contrast', 'sharpness'):
        return {1 - magnitude, 1 + magnitude}
    if signed:
        return {-magnitude, magnitude}
    return {{'posterize': 8 - round(magnitude), 'solarize': 255 - magnitude}.get(name, 0)}


def test_trivial_augment_draws_every_operation_at_every_level(monkeypatch):
    """Equally often, within five standard deviations; the arguments are torchvision's."""
    drawn = {}

    def keep(images, operation, argument, centers, names, fill):
        drawn.update(operation=operation[:, 0], argument=argument[:, 0], names=names, fill=fill)
        return images

    monkeypatch.setattr(policies, 'operate_in_turn', keep)
    count = 60_000
    keys = jax.random.split(jax.random.key(0), count)
    policies.trivial_augment(jnp.zeros((count, 1, 1, 1), jnp.uint8), keys)
    assert drawn['fill'] == 0
    assert drawn['names'] == set(WIDE) - {'identity'}
    operation, argument = np.asarray(drawn['operation']), np.asarray(drawn['argument'])
    assert set(operation) == {OPERATIONS.index(name) for name in WIDE}
    for name in WIDE:
        values = np.float64(argument[operation == OPERATIONS.index(name)])
        assert abs(len(values) - count / 14) < 5 * (count / 14) ** 0.5
        shares = collections.Counter()
        for level in range(31):
            arguments = wide_arguments(name, level)
            for value in arguments:
                shares[round(float(value), 3) + 0.0] += 1 / 31 / len(arguments)
        found = collections.Counter((np.round(values, 3) + 0.0).tolist())
        assert found.keys() <= shares.keys(), name
        for value, share in shares.items():
            expected = share * len(values)
            assert abs(found[value] - expected) < 5 * expected**0.5 + 1, (name, value)


def test_trivial_augment_leaves_the_outside_of_an_image_black():
    images = jnp.full((64, 16, 16, 3), 200, jnp.uint8)
    keys = jax.random.split(jax.random.key(1), 64)
    changed = np.asarray(jit(policies.trivial_augment)(images, keys))
    corners = changed[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).all(-1).any()
    assert not (changed == operations.GRAY).all(-1).any()

"""The compiled step: its numbers on any devices and by plain NumPy, and its communication."""

import dataclasses
import functools
import re
from collections import Counter

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from compiling import jit
from jax.sharding import PartitionSpec as P

from cls.augment.spec import AugmentSpec
from cls.config import load as configs
from cls.nn.norm import BatchNorm
from cls.setup import set_up
from cls.steps import losses
from cls.steps import sharding as meshes
from cls.steps.distill import DistillSpec, Teacher
from cls.steps.state import new_state
from cls.steps.train_step import (
    Recipe,
    make_eval_step,
    make_train_step,
    microbatches,
    normalize,
    random_flip,
)
from cls.tools.tpu.hlo import collectives

SMALL_RESNET = (
    ('duration', '100 steps'),
    ('batch', '32'),
    ('model.stage_sizes', '(1, 1, 1)'),
    ('model.bn_group', '4'),  # the examples of each of eight devices
    ('optim.lr', '0.02'),
    ('schedule.warmup', '0 steps'),
    ('data.flip', 'true'),
    ('ema', '0.9'),
)


def five_losses(devices, *overrides, **where):
    """The losses of five steps, and the state after them."""
    return five_steps(devices, *overrides, **where)[:2]


@functools.cache
def five_steps(devices, *overrides, file='configs/resnet.py', base=SMALL_RESNET):
    """Losses, the state after, where it was before, and (kind, devices) -> bytes of a step."""
    config = configs.load(file, (*base, *overrides))
    setup = set_up(config, jax.devices()[:devices])
    losses, state, where, train_step = tiny.steps(setup, 5)
    sent = Counter()
    for each in collectives(train_step.as_text()):
        sent[each.kind, each.group] += each.times * each.bytes
    return np.array(losses), state, where, sent


@pytest.fixture(scope='module')
def on_one_device():
    return five_losses(1)


@pytest.mark.parametrize(
    ('devices', 'overrides'),
    [
        (8, ()),
        pytest.param(8, (('mesh.fsdp', '8'),), marks=pytest.mark.sweep),
        (8, (('mesh.fsdp', '4'),)),
        pytest.param(1, (('accumulate', '4'),), marks=pytest.mark.sweep),
        (2, (('accumulate', '4'),)),
    ],
    ids=['data', 'fsdp', 'data and fsdp', 'accumulated', 'data and accumulated'],
)
def test_the_losses_do_not_depend_on_how_they_are_computed(devices, overrides, on_one_device):
    losses, state = five_losses(devices, *overrides)
    expected, expected_state = on_one_device
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert len(set(losses)) == 5
    for tree in ('params', 'batch_stats', 'ema'):
        for ours, theirs in zip(
            jax.tree.leaves(getattr(state, tree)),
            jax.tree.leaves(getattr(expected_state, tree)),
            strict=True,
        ):
            ours, theirs = np.asarray(ours), np.asarray(theirs)
            assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs) + 1e-7


def bytes_of(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ('devices', 'overrides', 'times'),
    [(8, (), 1), (2, (('accumulate', '4'),), 4)],
    ids=['data', 'data and accumulated'],
)
def test_devices_send_gradients_statistics_and_metrics_alone(devices, overrides, times):
    """And nothing between the examples of a batch norm, all on one device.

    XLA's CPU backend reduces each microbatch's; TPU's reduces their sum.
    """
    _, state, _, sent = five_steps(devices, *overrides)
    loss_and_top1 = 2 * 4
    expected = bytes_of(state.params) + bytes_of(state.batch_stats) + loss_and_top1
    assert sent == {('all-reduce', devices): times * expected}


@pytest.mark.parametrize('fsdp', [4, 8])
def test_split_kernels_are_gathered_and_each_device_gets_its_part_of_the_gradient(fsdp):
    """On CPU, without a reduce-scatter: a part of all that is reduced."""
    _, state, where, sent = five_steps(8, ('mesh.fsdp', str(fsdp)))
    split = [x for x in jax.tree.leaves(state.params) if x.size >= meshes.MIN_SPLIT]
    assert split
    for tree in (state.params, state.ema['params'], state.opt_state):
        parts = [x for x in jax.tree.leaves(tree) if x.size >= meshes.MIN_SPLIT]
        assert [x.shape for x in parts] == [x.shape for x in split]
        assert [x.sharding for x in parts] == [x.sharding for x in split]
        assert all(x.addressable_shards[0].data.size == x.size // fsdp for x in parts)
    jax.tree.map(lambda x, before: np.testing.assert_(x.sharding == before.sharding), state, where)

    gradients = bytes_of(split)
    rest = bytes_of(state.params) - gradients + bytes_of(state.batch_stats) + 2 * 4
    norms = 2 * 4 * len(split)  # of gradients and parameters: a sum of squares of each part
    expected = Counter({('all-gather', fsdp): gradients, ('all-reduce', 8): rest})
    expected['all-reduce', fsdp] += gradients + norms
    if fsdp < 8:
        expected['all-reduce', 8 // fsdp] += gradients // fsdp
    assert sent == expected


def test_bfloat16_computes_nearly_the_same_and_keeps_the_state_in_float32(on_one_device):
    losses, state = five_losses(1, ('model.dtype', 'bfloat16'))
    np.testing.assert_allclose(losses, on_one_device[0], rtol=0.02)
    assert np.any(losses != on_one_device[0])
    kinds = {x.dtype for x in jax.tree.leaves((state.params, state.batch_stats, state.ema))}
    assert kinds == {jnp.dtype(jnp.float32)}


def test_statistics_of_the_global_batch_are_reduced_over_the_devices():
    one, eight = (five_losses(n, ('model.bn_group', '0'))[0] for n in (1, 8))
    np.testing.assert_allclose(eight, one, rtol=1e-5)


@pytest.mark.parametrize(
    ('batch', 'group', 'says', 'sends'),
    [
        (32, 4, '', 0),  # four examples on each device
        (32, 2, '', 0),
        (32, 16, 'groups of 16 examples are on 4 devices each', 'statistics'),
        (32, 0, 'groups of 32 examples are on 8 devices each', 'statistics'),
        (48, 4, 'groups of 4 examples .* and devices of 6 do not divide', 'examples'),
    ],
)
def test_groups_that_devices_share_are_told_of(batch, group, says, sends):
    """And the line is true of the communication of a norm."""
    fields = (('batch', str(batch)), ('model.bn_group', str(group)))
    setup = set_up(configs.load('configs/resnet.py', (*SMALL_RESNET, *fields)))
    line = setup.split_groups({'bn1': {'mean': 0, 'var': 0}})
    assert bool(line) == bool(says)
    assert re.search(says, line)
    assert not setup.split_groups({})

    spread = meshes.batch_sharding(setup.mesh)
    images = jax.ShapeDtypeStruct((batch, 6, 6, 5), jnp.float32, sharding=spread)
    net, whole = BatchNorm(True, group=group), meshes.replicated(setup.mesh)
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((batch, 6, 6, 5)))),
    )

    def normalised(variables, images):
        return net.apply(variables, images, mutable='batch_stats')[0]

    program = jit(normalised, out_shardings=spread).lower(variables, images).compile()
    sent = sum(x.bytes for x in collectives(program.as_text()))
    # A mean of samples and two sums, float32.
    summed = batch if sends == 'examples' else -(-batch // (group or batch))
    assert bool(sent) == bool(sends)
    assert sent <= 3 * 5 * 4 * summed


@pytest.mark.sweep  # two compilations of half a minute
def test_dropped_paths_and_units_are_the_same_on_any_devices():
    overrides = (
        ('duration', '100 steps'),
        ('batch', '16'),
        ('model.filters', '8'),
        ('model.stem_filters', '24'),
        ('model.drop_path_rate', '0.9'),
    )
    one, eight = (
        five_losses(n, *overrides, file='configs/amoebanet.py', base=())[0] for n in (1, 8)
    )
    np.testing.assert_allclose(eight, one, rtol=1e-5)


@pytest.mark.sweep  # compilations of half a minute
def test_what_is_pruned_is_the_same_on_any_devices_and_accumulated():
    overrides = (
        ('duration', '6 steps'),
        ('schedule.warmup', '100 percent'),
        ('batch', '32'),
        ('model.stage_sizes', '(1, 1, 1)'),
        ('model.bn_group', '4'),
        ('model.dropout_rate', '0.0'),
        ('model.group_lasso', '0.01'),
        ('optim.lr', '0.02'),
        ('schedule.warmup', '0 steps'),
        ('ema', '0.9'),
    )
    run = functools.partial(five_losses, file='configs/condensenet.py', base=overrides)
    losses, state = run(1)
    masks = [x for x in jax.tree.leaves(state.batch_stats) if x.dtype == bool]
    assert [float(jnp.mean(mask)) for mask in masks] == [0.5, *[0.25] * 3]
    for devices, more in ((8, ()), (8, (('mesh.fsdp', '4'),)), (2, (('accumulate', '4'),))):
        others, other = run(devices, *more)
        np.testing.assert_allclose(others, losses, rtol=1e-5)
        for stats in (other.batch_stats, other.ema['batch_stats']):
            found = [x for x in jax.tree.leaves(stats) if x.dtype == bool]
            jax.tree.map(np.testing.assert_array_equal, found, masks)


def test_the_comparison_would_see_another_batch_norm_group(on_one_device):
    losses, _ = five_losses(1, ('model.bn_group', '16'))
    assert np.abs(losses / on_one_device[0] - 1).max() > 1e-3


class Linear(nn.Module):
    """Logits x @ w of flattened images, and auxiliary logits 2 x @ w."""

    @nn.compact
    def __call__(self, images, train=False):
        kernel = self.param('kernel', nn.initializers.zeros, (4, 3))
        logits = images.reshape(len(images), -1) @ kernel
        if train:
            self.sow('aux_logits', 'aux', 2 * logits)
        return logits


RECIPE = Recipe(
    total_steps=10,
    mean=(100.0,),
    std=(50.0,),
    flip=False,
    label_smoothing=0.1,
    aux_weight=0.3,
    accumulate=1,
    ema=0.9,
)
MESH = meshes.make_mesh(1, jax.devices()[:1])


def linear_case():
    rng = np.random.default_rng(0)
    batch = {
        'image': rng.integers(256, size=(6, 2, 2, 1)).astype(np.uint8),
        'label': rng.integers(3, size=6).astype(np.int32),
        'mask': np.ones(6, bool),
    }
    kernel = rng.normal(size=(4, 3)).astype(np.float32)
    return batch, kernel


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def loss_and_gradient(kernel, batch, aux_weight=0.3, smoothing=0.1):
    """Cross entropy with smoothing of the logits and, weighted, of the doubled logits."""
    x = (batch['image'].reshape(6, 4).astype(np.float64) - 100) / 50
    targets = np.eye(3)[batch['label']] * (1 - smoothing) + smoothing / 3
    loss, gradient = 0.0, 0.0
    for factor, weight in ((1, 1.0), (2, aux_weight)):
        p = softmax(factor * x @ kernel)
        loss += weight * -(targets * np.log(p)).sum(1).mean()
        gradient = gradient + weight * factor * x.T @ (p - targets) / 6
    return loss, gradient


def test_a_step_takes_the_loss_that_the_recipe_names():
    """With binary cross-entropy, also of the auxiliary head, and weights of classes."""
    batch, kernel = linear_case()
    optimizer, weights = optax.sgd(0.1), (0.5, 1.0, 2.0)
    loss = losses.LossSpec('bce', (('sum_classes', True),), weights)
    recipe = dataclasses.replace(RECIPE, loss=loss)
    state = new_state({'params': {'kernel': kernel}}, optimizer, seed=0, ema=False)
    recipe = dataclasses.replace(recipe, ema=0.0)
    step = jit(make_train_step(Linear(), optimizer, recipe, meshes.batch_sharding(MESH)))
    state, metrics = step(state, batch)
    x = (batch['image'].reshape(6, 4).astype(np.float64) - 100) / 50
    targets = np.eye(3)[batch['label']] * 0.9 + 0.1 / 3
    expected, gradient = 0.0, 0.0
    for factor, weight in ((1, 1.0), (2, 0.3)):
        p = 1 / (1 + np.exp(-factor * x @ kernel))
        terms = -targets * np.log(p) - (1 - targets) * np.log(1 - p)
        expected += weight * (terms * weights).sum(1).mean()
        gradient = gradient + weight * factor * x.T @ ((p - targets) * weights) / 6
    assert float(metrics['loss']) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(state.params['kernel'], kernel - 0.1 * gradient, rtol=1e-4)


@pytest.mark.parametrize('augment', [AugmentSpec(), AugmentSpec(brightness=1e-9)])
def test_a_step_learns_from_a_teacher_with_a_preparation_of_its_own(augment):
    """Hinton et al. 2015: T^2 times the divergence; pixels are those of the student's batch."""
    batch, kernel = linear_case()
    own = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    prepare = functools.partial(normalize, mean=(10.0,), std=(200.0,))
    teacher = Teacher(Linear(), prepare, outputs=(2, 0, 1))
    recipe = dataclasses.replace(
        RECIPE,
        ema=0.0,
        aux_weight=0.0,
        augment=augment,
        distill=DistillSpec('a teacher', 3.0, 0.25),
        teacher=teacher,
    )
    optimizer = optax.sgd(0.1)
    state = new_state({'params': {'kernel': kernel}}, optimizer, seed=0, ema=False)
    step = make_train_step(Linear(), optimizer, recipe, meshes.batch_sharding(MESH))
    state, metrics = jit(step)(state, batch, {'params': {'kernel': own}})
    pixels = batch['image'].reshape(6, 4).astype(np.float64)
    x, logits = (pixels - 100) / 50, (pixels - 10) / 200 @ own
    target, p = softmax(logits[:, [2, 0, 1]] / 3), softmax(x @ kernel / 3)
    distance = 9 * (target * np.log(target / p)).sum(1).mean()
    plain, gradient = loss_and_gradient(kernel, batch, aux_weight=0.0)
    assert float(metrics['distillation']) == pytest.approx(distance, rel=1e-3)
    assert float(metrics['loss']) == pytest.approx(0.75 * plain + 0.25 * distance, rel=1e-3)
    gradient = 0.75 * gradient + 0.25 * 3 * x.T @ (p - target) / 6
    np.testing.assert_allclose(state.params['kernel'], kernel - 0.1 * gradient, rtol=1e-3)


@pytest.mark.parametrize('accumulate', [1, 3])
def test_30_steps_of_sharpness_aware_minimization(accumulate):
    """Foret et al. 2021, algorithm 1, with momentum; the loss is that before the step up."""
    batch, kernel = linear_case()
    optimizer = optax.sgd(0.1, 0.9)
    state = new_state({'params': {'kernel': kernel}}, optimizer, seed=0, ema=False)
    recipe = dataclasses.replace(RECIPE, ema=0.0, sam=0.5, accumulate=accumulate)
    step = jit(make_train_step(Linear(), optimizer, recipe, meshes.batch_sharding(MESH)))
    expected, momentum = kernel.astype(np.float64), 0.0
    for _ in range(30):
        loss, uphill = loss_and_gradient(expected, batch)
        _, gradient = loss_and_gradient(expected + 0.5 * uphill / np.linalg.norm(uphill), batch)
        momentum = 0.9 * momentum + gradient
        expected = expected - 0.1 * momentum
        state, metrics = step(state, batch)
        assert float(metrics['loss']) == pytest.approx(loss, rel=1e-4)
    np.testing.assert_allclose(state.params['kernel'], expected, rtol=1e-4, atol=1e-5)


def test_the_average_is_updated_every_few_steps():
    batch, kernel = linear_case()
    optimizer = optax.sgd(0.1)
    state = new_state({'params': {'kernel': kernel}}, optimizer, seed=0, ema=True)
    recipe = dataclasses.replace(RECIPE, ema_every=2, ema_warmup='none')
    step = jit(make_train_step(Linear(), optimizer, recipe, meshes.batch_sharding(MESH)))
    average, seen = kernel, []
    for i in range(6):
        state, _ = step(state, batch)
        new = np.asarray(state.params['kernel'])
        if i % 2:
            average = new if i == 1 else 0.9 * average + 0.1 * new
        seen.append(np.asarray(state.ema['params']['kernel']))
        np.testing.assert_allclose(seen[-1], average, rtol=1e-5)
    np.testing.assert_array_equal(seen[0], kernel)
    np.testing.assert_array_equal(seen[1], seen[2])


@pytest.mark.parametrize('accumulate', [1, 3])
def test_loss_gradient_and_average_are_those_of_the_formulas(accumulate):
    batch, kernel = linear_case()
    optimizer = optax.sgd(0.1)
    state = new_state({'params': {'kernel': kernel}}, optimizer, seed=0, ema=True)
    recipe = dataclasses.replace(RECIPE, accumulate=accumulate)
    step = jit(make_train_step(Linear(), optimizer, recipe, meshes.batch_sharding(MESH)))
    average = kernel.astype(np.float64)
    expected = kernel.astype(np.float64)
    for i in range(3):
        loss, gradient = loss_and_gradient(expected, batch)
        state, metrics = step(state, batch)
        assert float(metrics['loss']) == pytest.approx(loss, rel=1e-5)
        assert float(metrics['grad_norm']) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
        expected = expected - 0.1 * gradient
        decay = min(0.9, (1 + i) / (10 + i))
        average = decay * average + (1 - decay) * expected
        np.testing.assert_allclose(state.params['kernel'], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.ema['params']['kernel'], average, rtol=1e-4, atol=1e-6)
    assert int(state.step) == 3


class Masked(nn.Module):
    """Logits x @ (w * mask), a penalty of 0.25 |w|^2, and a mask that loses a row at each step."""

    @nn.compact
    def __call__(self, images, train=False):
        kernel = self.param('kernel', nn.initializers.zeros, (4, 3))
        mask = self.variable('batch_stats', 'mask', jnp.ones, (4,), bool)
        seen = self.variable('batch_stats', 'seen', jnp.zeros, (), jnp.int32)
        logits = images.reshape(len(images), -1) @ (kernel * mask.value[:, None])
        if train:
            self.sow('penalties', 'l2', 0.25 * jnp.sum(kernel**2))
            mask.value &= jnp.arange(4) != seen.value
            seen.value += 1
        return logits


@pytest.mark.parametrize('accumulate', [1, 3])
def test_penalties_join_the_loss_and_masks_are_never_averaged(accumulate):
    batch, kernel = linear_case()
    optimizer = optax.sgd(0.1)
    stats = {'mask': np.ones(4, bool), 'seen': np.zeros((), np.int32)}
    state = new_state({'params': {'kernel': kernel}, 'batch_stats': stats}, optimizer, 0, ema=True)
    recipe = dataclasses.replace(RECIPE, accumulate=accumulate)
    step = jit(make_train_step(Masked(), optimizer, recipe, meshes.batch_sharding(MESH)))
    expected = kernel.astype(np.float64)
    for i in range(3):
        mask = (np.arange(4) >= i)[:, None]
        loss, gradient = loss_and_gradient(expected * mask, batch, aux_weight=0)
        state, metrics = step(state, batch)
        loss += 0.25 * np.sum(expected**2)
        assert float(metrics['loss']) == pytest.approx(loss, rel=1e-5)
        expected = expected - 0.1 * (gradient * mask + 0.5 * expected)
        np.testing.assert_allclose(state.params['kernel'], expected, rtol=1e-4, atol=1e-6)
        for stats in (state.batch_stats, state.ema['batch_stats']):
            assert (stats['mask'].dtype, stats['seen'].dtype) == (bool, jnp.int32)
            np.testing.assert_array_equal(stats['mask'], np.arange(4) > i)
            assert stats['seen'] == i + 1
        assert float(metrics['stats_norm']) == 0


def test_evaluation_counts_what_is_not_masked():
    batch, kernel = linear_case()
    batch['mask'] = np.array([True, True, False, True, True, False])
    sums = jit(make_eval_step(Linear(), RECIPE))({'params': {'kernel': kernel}}, batch)
    x = (batch['image'].reshape(6, 4).astype(np.float64) - 100) / 50
    p = softmax(x @ kernel)
    seen = batch['mask']
    assert sums['count'] == 4
    assert sums['top1'] == (p.argmax(1) == batch['label'])[seen].sum()
    assert sums['top5'] == 4  # of three classes
    expected = -np.log(p[np.arange(6), batch['label']])[seen].sum()
    assert float(sums['loss']) == pytest.approx(expected, rel=1e-5)


class WithAndWithoutJit(chex.TestCase):
    """The pure functions of a step give the same compiled and not."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_normalise_by_channel(self):
        images = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)
        function = functools.partial(normalize, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
        expected = (images - np.array([1.0, 2, 3])) / np.array([2.0, 4, 8])
        np.testing.assert_allclose(self.variant(function)(images), expected, rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_flips_mirror_about_half_of_the_images_left_to_right(self):
        images = np.random.default_rng(0).integers(256, size=(1000, 2, 3, 1)).astype(np.uint8)
        flipped = np.asarray(self.variant(random_flip)(images, jax.random.key(0)))
        mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
        assert ((flipped == images).all((1, 2, 3)) | mirrored).all()
        assert 430 < mirrored.sum() < 570

    @chex.variants(with_jit=True, without_jit=True)
    def test_microbatches_have_groups_dealt_out(self):
        function = functools.partial(microbatches, count=2, group=2)
        dealt = self.variant(function)(np.arange(8))
        chex.assert_trees_all_equal(np.asarray(dealt), np.array([[0, 1, 4, 5], [2, 3, 6, 7]]))


def test_a_step_gives_the_same_state_compiled_and_not():
    batch, kernel = linear_case()
    optimizer = optax.adam(0.1)
    step = make_train_step(Linear(), optimizer, RECIPE, meshes.batch_sharding(MESH))
    state = new_state({'params': {'kernel': kernel}}, optimizer, seed=0, ema=True)
    (compiled, measured), (plain, expected) = jit(step)(state, batch), step(state, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(compiled, plain)
    parts = (compiled.params, compiled.ema, measured), (plain.params, plain.ema, expected)
    chex.assert_trees_all_close(*parts, rtol=1e-5, atol=1e-6)


def test_outputs_that_are_no_logits_end_the_trace():
    class Map(Linear):
        @nn.compact
        def __call__(self, images, train=False):
            return super().__call__(images, train)[:, None]

    batch, kernel = linear_case()
    state = new_state({'params': {'kernel': kernel}}, optax.sgd(0.1), seed=0, ema=False)
    step = make_train_step(Map(), optax.sgd(0.1), RECIPE, meshes.batch_sharding(MESH))
    with pytest.raises(AssertionError, match='rank'):
        jax.eval_shape(step, state, batch)
    batch['mask'] = np.ones(len(batch['label']), bool)
    with pytest.raises(AssertionError, match='rank'):
        jax.eval_shape(make_eval_step(Map(), RECIPE), state.variables(), batch)


def test_randomness_is_a_function_of_seed_and_step():
    """The same batch at steps 0 and 1: other flips; the same step again: the same flips."""

    class Sum(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            weights = self.param('kernel', nn.initializers.zeros, (3,))
            return jnp.sum(images, (1, 3)) * weights

    images = np.random.default_rng(0).integers(256, size=(64, 2, 3, 1)).astype(np.uint8)
    batch = {
        'image': images,
        'label': np.zeros(64, np.int32),
        'mask': np.ones(64, bool),
    }
    recipe = dataclasses.replace(RECIPE, flip=True, ema=0.0)
    optimizer = optax.sgd(0.0)
    step = jit(make_train_step(Sum(), optimizer, recipe, meshes.batch_sharding(MESH)))
    make = functools.partial(
        new_state, {'params': {'kernel': np.array([0.5, 0.1, -0.3], np.float32)}}, optimizer
    )
    state = make(seed=1, ema=False)
    after, first = step(state, batch)
    _, again = step(state, batch)
    _, second = step(after, batch)
    _, other_seed = step(make(seed=2, ema=False), batch)
    assert first['loss'] == again['loss']
    assert len({float(m['loss']) for m in (first, second, other_seed)}) == 3


def test_state_shardings_name_the_mesh_axes():
    mesh = meshes.make_mesh(4)
    sharding = meshes.state_shardings({'k': np.zeros((3, 3, 64, 128))}, mesh)['k']
    assert sharding.spec == P(None, None, None, 'fsdp')

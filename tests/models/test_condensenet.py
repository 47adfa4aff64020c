"""CondenseNet: pruning and its schedule, the group lasso, and conversion of a trained network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST, jit

from cls import models
from cls.models.condensenet import condense, group_lasso, kept, pruned, stage
from cls.models.registry.init import init

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ('factor', 'expected'),
    [(2, [0, 0, 0, 0, 1, 1]), (4, [0, 0, 1, 2, 3, 3]), (8, [0, 2, 2, 5, 7, 7])],
)
def test_stages_share_the_first_half_of_training(factor, expected):
    stages = [int(stage(jnp.float32(p), factor)) for p in (0, 0.16, 0.17, 0.4, 0.5, 1)]
    assert stages == expected


def prune_by_loops(mask, kernel, count):
    """Returns the mask without the `count` smallest inputs of each group; pruned ones are zero."""
    inputs, groups = mask.shape
    mask = mask.copy()
    for group in range(groups):
        sums = np.abs(kernel[:, group::groups]).sum(axis=1) * mask[:, group]
        for i in np.argsort(sums, kind='stable')[:count]:
            mask[i, group] = False
    return mask


def test_each_group_loses_its_smallest_inputs_permanently():
    mask = np.ones((12, 2), bool)
    step = jit(pruned)
    for count in (0, 3, 3, 9):  # a step may skip a stage, and most begin none
        kernel = RNG.standard_normal((12, 6)).astype(np.float32)
        after = np.asarray(step(mask, kernel, count))
        np.testing.assert_array_equal(after, prune_by_loops(mask, kernel, count))
        np.testing.assert_array_equal((~after).sum(axis=0), count)
        assert not np.any(after & ~mask)
        mask = after
    assert np.any(mask[:, 0] != mask[:, 1])


def test_inputs_of_equal_weight_are_pruned_by_index():
    after = np.asarray(pruned(np.ones((4, 2), bool), np.zeros((4, 6), np.float32), 2))
    np.testing.assert_array_equal(after, [[False] * 2] * 2 + [[True] * 2] * 2)


def test_the_group_lasso_is_a_sum_of_norms():
    kernel = RNG.standard_normal((5, 6)).astype(np.float32)
    kernel[4] = 1e-5
    mask = np.ones((5, 2), bool)
    mask[0, 1] = False
    norms = [np.linalg.norm(kernel[i, g::2]) for i in range(4) for g in range(2) if mask[i, g]]
    expected = sum(norms) + 3 * 1e-3
    assert float(group_lasso(mask, kernel)) == pytest.approx(expected, rel=1e-6)
    gradient = jax.grad(group_lasso, argnums=1)(mask, kernel)
    assert not np.any(gradient[0, 1::2]) and not np.any(gradient[4])
    np.testing.assert_allclose(gradient[1, ::2], kernel[1, ::2] / norms[1], rtol=1e-5)


def trained(groups, factor, **fields):
    """Returns a small learned network, variables as after training, and images."""
    model = models.create(
        'condensenet50_cifar_learned',
        stage_sizes=(1, 2),
        growths=(8, 16),
        groups=groups,
        factor=factor,
        **fields,
    )

    def moved(path, x):
        if x.dtype != bool:
            return x + RNG.uniform(-0.1, 0.5, x.shape).astype(np.float32)
        count = len(x) // (2 if path[1].key == 'output' else factor)
        return np.argsort(np.argsort(RNG.random(x.shape), axis=0), axis=0) < count

    variables = jax.tree.map_with_path(moved, init(model, 0, 8))
    return model, variables, RNG.standard_normal((3, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ('groups', 'factor'),
    [(2, 4), *(pytest.param(*pair, marks=pytest.mark.sweep) for pair in ((4, 4), (8, 2)))],
)
def test_the_converted_form_gives_the_same_logits(groups, factor):
    model, variables, images = trained(groups, factor)
    converted, condensed = model.clone(converted=True), condense(variables)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), condensed)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), init(converted, 0, 8))
    apply = jit(
        lambda model, variables: model.apply(variables, images),
        static_argnums=0,
        compiler_options=FAST,
    )
    before, after = apply(model, variables), apply(converted, condensed)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.ptp(before))
    assert np.ptp(before, axis=0).min() > 1e-2 * np.ptp(before)


def test_the_penalty_ends_with_the_stages():
    model, variables, images = trained(4, 4, group_lasso=0.5)

    def penalties(progress):
        arguments = {'train': True, 'progress': progress}
        _, updated = model.apply(variables, images, **arguments, mutable=True)
        return updated['penalties']

    shapes = jax.eval_shape(penalties, 0.0)
    assert set(shapes) == {'stage1.unit1', 'stage2.unit1', 'stage2.unit2'}
    values = jit(lambda p: sum(jax.tree.leaves(penalties(p))), compiler_options=FAST)
    layers = [variables['params'][name]['conv1']['conv']['kernel'][0, 0] for name in shapes]
    masks = [variables['batch_stats'][name]['conv1']['conv']['mask'] for name in shapes]
    expected = 0.5 * sum(float(group_lasso(*pair)) for pair in zip(masks, layers, strict=True))
    assert float(values(0.4)) == pytest.approx(expected, rel=1e-5)
    assert float(values(0.5)) == 0


def test_uneven_groups_are_refused():
    with pytest.raises(ValueError, match=r'\[2, 1\]'):
        kept(np.array([[True, False], [True, True]]))

"""Small AmoebaNets: gradients, auxiliary head, dropout, drop path and features.

The default run has cells of few operations, which compile fast; -m sweep has the paper's four.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from cls import models
from cls.models import amoebanet
from cls.models.registry.init import init
from cls.nn.cells import CellSpec, Genotype

RNG = np.random.default_rng(5)
FEW = Genotype(
    normal=CellSpec(((('1x1', 1), ('identity', 0)),), (0, 2)),
    reduce=CellSpec(((('max_2x2', 0), ('1x1', 1)),), (2,)),
)
SMALL = {'cells': 1, 'filters': 8, 'num_classes': 5, 'dropout_rate': 0.0, 'drop_path_rate': 0.0}


def make(genotype=FEW, cifar=True, **fields):
    stem = {'stem_filters': 24} if cifar else {'stem_filters': 6, 'filters': 16}
    name = 'amoebanet_a_n6_f36_cifar' if cifar else 'amoebanet_a_n4_f50'
    return models.create(name, **{**SMALL, 'genotype': genotype, **stem, **fields})


@functools.cache
def trainer(model, size):
    """Returns (variables, images, jitted train(variables, images, key, progress, aux weight))."""
    images = RNG.standard_normal((8, size, size, 3)).astype(np.float32)
    weights = RNG.standard_normal((2, 8, model.num_classes)).astype(np.float32)

    @functools.partial(jax.jit, compiler_options=FAST)
    def train(variables, images, key, progress, aux_weight):
        def loss(params):
            logits, updated = model.apply(
                {**variables, 'params': params},
                images,
                train=True,
                progress=progress,
                mutable=['batch_stats', 'aux_logits'],
                rngs={'dropout': key},
            )
            (aux,) = jax.tree.leaves(updated['aux_logits'])
            total = jnp.sum(logits * weights[0]) + aux_weight * jnp.sum(aux * weights[1])
            return total, (logits, aux, updated['batch_stats'])

        gradients, out = jax.grad(loss, has_aux=True)(variables['params'])
        return gradients, *out

    return init(model, 0, size), images, train


def check_gradients(model, size):
    variables, images, train = trainer(model, size)
    gradients, logits, aux, _ = train(variables, images, jax.random.key(0), 1.0, 1.0)
    assert logits.shape == aux.shape == (8, 5)
    assert logits.dtype == aux.dtype == jnp.float32
    assert jax.tree.structure(gradients) == jax.tree.structure(variables['params'])
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.all(np.isfinite(g)), path
        assert np.any(g != 0), path


def test_every_parameter_gets_a_gradient():
    check_gradients(make(drop_path_rate=0.5), 16)


@pytest.mark.sweep
@pytest.mark.parametrize('genotype', 'ABCD')
def test_every_parameter_gets_a_gradient_with_the_cells_of_the_paper(genotype):
    check_gradients(make(getattr(amoebanet, genotype)), 16)


@pytest.mark.sweep
@pytest.mark.parametrize('genotype', 'AD')
def test_every_parameter_gets_a_gradient_with_the_stem_for_imagenet(genotype):
    check_gradients(make(getattr(amoebanet, genotype), cifar=False), 64)


def test_the_auxiliary_head_learns_only_from_its_own_logits():
    variables, images, train = trainer(make(drop_path_rate=0.5), 16)
    key = jax.random.key(0)
    without, *_ = train(variables, images, key, 0.0, 0.0)
    heads = [name for name in without if name.startswith('aux_')]
    assert heads == ['aux_1']  # on the last normal cell before the second reduction
    assert not any(np.any(g) for g in jax.tree.leaves(without['aux_1']))
    with_aux, *_ = train(variables, images, key, 0.0, 1.0)
    assert all(np.any(g) for g in jax.tree.leaves(with_aux['aux_1']))
    # Its gradient reaches the cells before it and not those after it.
    before, after = (
        jax.tree.map(lambda x, y: np.any(x != y), without[n], with_aux[n])
        for n in ('cell_1', 'cell_2')
    )
    assert all(jax.tree.leaves(before))
    assert not any(jax.tree.leaves(after))


def test_drop_path_grows_with_progress():
    variables, images, train = trainer(make(drop_path_rate=0.5), 16)

    def logits(seed, progress):
        return np.asarray(train(variables, images, jax.random.key(seed), progress, 0.0)[1])

    np.testing.assert_array_equal(logits(0, 0.0), logits(1, 0.0))
    assert np.abs(logits(0, 1.0) - logits(1, 1.0)).max() > 1e-3
    np.testing.assert_array_equal(logits(0, 1.0), logits(0, 1.0))


def test_training_without_rates_needs_no_key_and_is_evaluation_by_batch_statistics():
    model = make(bn_momentum=0.0)  # running statistics become the batch's
    variables = init(model, 0, 16)
    images = RNG.standard_normal((64, 16, 16, 3)).astype(np.float32)
    mutable = ['batch_stats', 'aux_logits']

    @functools.partial(jax.jit, compiler_options=FAST)
    def both(variables):
        trained, updated = model.apply(variables, images, train=True, mutable=mutable)
        after = {'params': variables['params'], 'batch_stats': updated['batch_stats']}
        return trained, model.apply(after, images), model.apply(variables, images)

    trained, after, before = both(variables)
    # The running variance is unbiased: larger by 1 / (64 * 16 * 16) to 1 / (64 * 4 * 4), in each of
    # about twenty consecutive norms.
    np.testing.assert_allclose(trained, after, atol=2e-2 * np.std(trained))
    assert np.abs(trained - before).max() > 0.1 * np.std(trained)


def test_dropout_is_off_in_evaluation():
    model = make(dropout_rate=0.5)
    variables, images = init(model, 0, 16), np.float32(RNG.standard_normal((8, 16, 16, 3)))

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(seed, images):
        rngs = {'dropout': jax.random.key(seed)}
        trained, _ = model.apply(variables, images, train=True, mutable=['batch_stats'], rngs=rngs)
        return trained, model.apply(variables, images)

    (one, evaluated), (again, _), (other, _) = (run(seed, images) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    _, changed = run(0, np.concatenate([images[:3], 2 * images[3:]]))
    np.testing.assert_allclose(evaluated[:3], changed[:3], rtol=1e-4, atol=1e-5)
    assert np.abs(evaluated[3:] - changed[3:]).max() > 1e-3


@pytest.mark.parametrize(
    'genotype', ['A', *(pytest.param(g, marks=pytest.mark.sweep) for g in 'BCD')]
)
def test_features(genotype):
    cells = getattr(amoebanet, genotype)
    model = make(cells)
    width = len(cells.normal.concat)
    features = jax.eval_shape(
        functools.partial(models.features, model),
        models.abstract_variables(model, 16),
        jax.ShapeDtypeStruct((3, 16, 16, 3), jnp.float32),
    )
    assert {name: x.shape for name, x in features.items()} == {
        'stem': (3, 16, 16, 24),
        'stage1': (3, 16, 16, 8 * width),
        'stage2': (3, 8, 8, 16 * width),
        'stage3': (3, 4, 4, 32 * width),
        'pre_logits': (3, 32 * width),
    }


def test_pre_logits_are_the_mean_of_the_last_stage():
    model = make(cifar=False)
    variables, images = init(model, 0, 64), np.float32(RNG.standard_normal((2, 64, 64, 3)))
    features = jax.jit(functools.partial(models.features, model), compiler_options=FAST)(
        variables, images
    )
    # (64 - 3) // 2 + 1 = 31 pixels after the first convolution, two reductions to 8.
    assert features['stem'].shape == (2, 8, 8, 8)
    assert features['stage3'].shape == (2, 2, 2, 128)
    rectified = np.maximum(np.asarray(features['stage3'], np.float64), 0)
    np.testing.assert_allclose(features['pre_logits'], rectified.mean((1, 2)), rtol=1e-4, atol=1e-6)


def test_without_auxiliary_head():
    model = make(aux_head=False)
    variables = models.abstract_variables(model, 16)
    assert not any(name.startswith('aux') for name in variables['params'])
    with_head = models.abstract_variables(make(), 16)['params']
    assert set(with_head) - set(variables['params']) == {'aux_1'}

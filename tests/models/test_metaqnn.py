"""MetaQNN's grammar and its limits, floor pooling, and the places of dropout."""

import csv
import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST
from flax import linen as nn
from shared import SHARED

from cls import models
from cls.errors import UserError
from cls.models import metaqnn
from cls.models.metaqnn import Chain, chain, dropouts, floor_pool
from cls.models.registry import genotypes
from cls.models.registry.init import init

# The history of the authors' search (github.com/bowenbaker/metaqnn, test/needed_for_testing).
REPLAY = SHARED / 'nasdata' / 'metaqnn_replay' / 'replay_database.csv'


def random_chain(seed):
    """Returns a random string of the grammar that fits 16 x 16 pixels."""
    rng, layers, size, state = random.Random(seed), [], 16, 'start'
    for _ in range(rng.randint(1, 5)):
        options = {'C': 2, 'FC': 1, 'GAP': 1} if state in ('start', 'C', 'P') else {}
        if state == 'C' and size >= 5:
            options['P'] = 2
        if state == 'FC' and layers.count('FC(8)') < 2:
            options = {'FC': 1}
        if not options:
            break
        state = rng.choices(list(options), list(options.values()))[0]
        window, strides = rng.choice(metaqnn.POOLS)
        size = (size - window + 1) // strides if state == 'P' else size
        convolution = f'C({rng.choice((4, 8))},{rng.choice((1, 3, 5))},1)'
        text = {'C': convolution, 'P': f'P({window},{strides})', 'FC': 'FC(8)', 'GAP': 'GAP(4)'}
        layers.append(text[state])
    return Chain((*layers, 'SM(10)'))


SEEDS = [5, *(pytest.param(seed, marks=pytest.mark.sweep) for seed in range(5))]


@pytest.mark.parametrize('seed', SEEDS)
def test_random_strings_build_and_train(seed):
    plain = genotypes.plain(random_chain(seed))
    model = models.create('metaqnn_5_cifar', genotype=plain, num_classes=3)
    assert model.genotype == random_chain(seed)
    images = np.random.default_rng(seed).standard_normal((4, 16, 16, 3)).astype(np.float32)
    variables = init(model, 0, 16)

    def loss(params):
        rngs = {'dropout': jax.random.key(0)}
        logits = model.apply({'params': params}, images, train=True, rngs=rngs)
        return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])

    value, gradients = jax.jit(jax.value_and_grad(loss), compiler_options=FAST)(variables['params'])
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients))
    assert np.any(gradients[max(gradients)]['kernel'])  # the classifier's


@pytest.mark.parametrize(
    ('text', 'pattern'),
    [
        ('C(64,4,1)', r'C\(64,4,1\): a convolution has window 1, 3 or 5'),
        ('C(64,3,2)', 'stride 1'),
        ('C(64,3)', r"'C\(64,3\)' is no layer"),
        ('C(0,3,1)', 'positive'),
        ('D(1,2)', 'is no layer'),
        ('P(2,2)', 'neither the first'),
        ('C(64,3,1) P(2,2) P(2,2)', 'nor after another'),
        ('C(64,3,1) P(3,3)', r'P\(5,3\)'),
        ('FC(64) C(64,3,1)', 'after FC'),
        ('GAP(10) FC(64)', 'after GAP'),
        ('FC(64) FC(128)', 'no wider'),
        ('FC(64) FC(64) FC(64)', '3 linear layers'),
        ('SM(10) C(64,3,1)', 'is no layer'),
    ],
)
def test_strings_outside_the_grammar_are_refused(text, pattern):
    with pytest.raises(ValueError, match=pattern) as caught:
        chain(text)
    assert '\n' not in str(caught.value)
    with pytest.raises(UserError, match=pattern):
        models.create('metaqnn_5_cifar', genotype={'layers': text.split()})


def test_the_classifier_may_be_explicit():
    text = 'C(64,3,1) FC(9)'
    assert metaqnn.parse(chain(text)) == metaqnn.parse(chain(text + ' SM(10)'))
    assert metaqnn.parse(chain('SM(10)')) == []


@pytest.mark.parametrize(
    ('size', 'window', 'strides'), [(32, 5, 3), (9, 2, 2), (8, 3, 2), (7, 5, 3), (3, 3, 2)]
)
def test_floor_pooling(size, window, strides):
    x = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
    n = max((size - window + 1) // strides, 1)
    expected = np.zeros((2, n, n, 3), np.float32)
    for i, j in np.ndindex(n, n):
        rows, columns = (slice(k * strides, k * strides + window) for k in (i, j))
        expected[:, i, j] = x[:, rows, columns].max((1, 2))
    np.testing.assert_array_equal(floor_pool(jnp.asarray(x), window, strides), expected)


def test_a_pool_larger_than_the_image_is_refused():
    with pytest.raises(UserError, match=r'P\(5,3\) leaves nothing of 4x4'):
        floor_pool(jnp.zeros((1, 4, 4, 1)), 5, 3)


@pytest.mark.parametrize(
    ('kinds', 'dropped', 'n'),
    [  # places and numbers from the authors' page, for cifar10_0, cifar10_2, svhn_0, and their run
        ('C C P C C P C', (2, 4, 6), 4),
        ('C C P C P FC FC', (2, 4, 6, 7), 5),
        ('C C C C C C C C P C C C', (2, 4, 6, 8, 10, 12), 6),
        ('C P C P C P FC', (2, 4, 6, 7), 5),
        ('C C P GAP', (2,), 1),
    ],
)
def test_places_and_rates_of_dropout_are_the_authors(kinds, dropped, n):
    shares = dropouts(kinds.split())
    assert tuple(i for i, share in enumerate(shares, 1) if share) == dropped
    expected = np.arange(1, len(dropped) + 1) / n
    np.testing.assert_allclose([share for share in shares if share], expected)


@pytest.mark.skipif(not REPLAY.exists(), reason=f'no {REPLAY} (CLS_SHARED)')
def test_all_networks_of_the_authors_search_are_in_the_grammar():
    """1,843 strings of their search on SVHN, with D(i,n) at each dropout."""
    with REPLAY.open(newline='') as file:
        strings = {row['net'] for row in csv.DictReader(file)}
    assert len(strings) == 1843
    for string in strings:
        tokens = string.strip('[]').split(', ')
        expected = []
        for token in tokens:
            if token.startswith('D'):
                i, n = map(int, token[2:-1].split(','))
                expected[-1] = i / n
            elif not token.startswith('SM'):
                expected.append(0.0)
        layers = metaqnn.parse(Chain(tuple(t for t in tokens if not t.startswith('D'))))
        assert dropouts([kind for kind, _ in layers]) == expected, string


def test_dropout_has_that_share_of_the_rate():
    """The first of two dropouts, after the second of four layers: half of 0.5."""
    layers = chain('C(4,1,1) C(400,1,1) C(1,1,1) C(1,1,1)')
    assert dropouts(['C'] * 4) == [0, 0.5, 0, 1.0]
    model = models.create('metaqnn_5_cifar', genotype=layers)
    variables, images = init(model, 0, 8), np.ones((1, 8, 8, 3), np.float32)

    @functools.partial(jax.jit, compiler_options=FAST)
    def around_dropouts():
        seen = []

        def watch(next_fun, args, kwargs, context):
            out = next_fun(*args, **kwargs)
            if isinstance(context.module, nn.Dropout):
                seen.append((args[0], out))
            return out

        with nn.intercept_methods(watch):
            model.apply(variables, images, train=True, rngs={'dropout': jax.random.key(1)})
        return seen

    (before, after), _ = jax.device_get(around_dropouts())
    kept = after != 0
    assert np.mean(kept[before != 0]) == pytest.approx(0.75, abs=0.02)
    np.testing.assert_allclose(after[kept], before[kept] / 0.75, rtol=1e-6)


def test_parameters_counted_by_hand():
    """C(8,3,1), P(2,2) from 8 to 3 pixels, FC(16), 5 classes."""
    model = models.create(
        'metaqnn_5_cifar', genotype=chain('C(8,3,1) P(2,2) FC(16)'), num_classes=5
    )
    params = models.abstract_variables(model, 8, channels=1)['params']
    count = sum(x.size for x in jax.tree.leaves(params))
    assert count == (9 * 8 + 8) + (3 * 3 * 8 * 16 + 16) + (16 * 5 + 5)
    assert set(params) == {'Convolution1', 'InnerProduct1', 'InnerProduct2'}

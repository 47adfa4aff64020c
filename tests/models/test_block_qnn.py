"""Block-QNN's search space: its limits, the output of a block, random blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from cls import models
from cls.errors import UserError
from cls.models import block_qnn
from cls.models.block_qnn import Block, loose_ends, random_block
from cls.models.registry import genotypes
from cls.models.registry.init import init

RNG = np.random.default_rng(3)


def make(block, **fields):
    small = {'filters': 4, 'stage_sizes': (1, 1), 'num_classes': 3}
    plain = genotypes.plain(block)
    return models.create('block_qnn_random0_cifar', genotype=plain, **{**small, **fields})


@pytest.mark.sweep
@pytest.mark.parametrize('seed', range(1, 4))
def test_random_blocks_build_and_train(seed):
    model = make(random_block(seed, 6))
    assert model.genotype == random_block(seed, 6)
    images = RNG.standard_normal((4, 8, 8, 3)).astype(np.float32)
    variables = init(model, 0, 8)

    def loss(params):
        full = {**variables, 'params': params}
        logits, _ = model.apply(full, images, train=True, mutable=['batch_stats'])
        return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])

    value, gradients = jax.jit(jax.value_and_grad(loss), compiler_options=FAST)(variables['params'])
    assert np.isfinite(value)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.all(np.isfinite(gradient)), path
        assert np.any(gradient), path


def test_random_blocks_are_in_the_space_and_the_same_each_time():
    blocks = [random_block(seed, 23) for seed in range(50)]
    assert blocks == [random_block(seed, 23) for seed in range(50)]
    assert len(set(blocks)) == 50
    codes = [code for block in blocks for code in block.layers]
    seen = {(kind, kernel) for _, kind, kernel, *_ in codes}
    assert seen == {(1, 1), (1, 3), (1, 5), (2, 1), (2, 3), (3, 1), (3, 3), (4, 0), (5, 0), (6, 0)}
    # A layer of the variants' block; tests/golden/restated/block_qnn.py has all of them.
    assert random_block(0) == block_qnn.RANDOM0
    assert block_qnn.RANDOM0.layers[7] == (8, 1, 3, 4, 0)


@pytest.mark.parametrize(
    ('layers', 'pattern'),
    [
        ((), 'at least one layer'),
        (((1, 7, 0, 0, 0),), 'at least one layer'),
        (((2, 1, 3, 0, 0),), 'numbered from 1'),
        (((1, 8, 0, 0, 0),), 'types are 1 to 7'),
        (((1, 1, 2, 0, 0),), 'kernel of type 1 is 1 or 3 or 5'),
        (((1, 2, 5, 0, 0),), 'kernel of type 2 is 1 or 3'),
        (((1, 4, 1, 0, 0),), 'kernel of type 4 is 0'),
        (((1, 1, 3, 1, 0),), 'reads those before it'),
        (((1, 1, 3, -1, 0),), 'reads those before it'),
        (((1, 1, 3, 0, 0), (2, 1, 3, 1, 1)), 'the second is 0'),
        (((1, 1, 3, 0, 0), (2, 5, 0, 1, 1)), 'two different layers'),
        (((1, 1, 3, 0, 0), (2, 7, 0, 1, 0)), 'type 7 is the last'),
        (((1, 7, 0, 0, 0), (2, 1, 3, 0, 0)), 'type 7 is the last'),
        (tuple((i, 4, 0, 0, 0) for i in range(1, 25)), 'numbered from 1 to 23'),
        (((1, 1, 3, 0),), 'genotype'),
        (((1, 1, 3, 0, 0.0),), 'expected int'),
    ],
)
def test_layers_outside_the_space_are_refused(layers, pattern):
    with pytest.raises(UserError, match=pattern) as caught:
        models.create('block_qnn_random0_cifar', genotype={'layers': layers})
    assert '\n' not in str(caught.value)


def test_the_largest_block_may_have_a_terminal_code():
    layers = tuple((i, 4, 0, i - 1, 0) for i in range(1, 24))
    assert loose_ends(Block((*layers, (24, 7, 0, 0, 0)))) == loose_ends(Block(layers)) == [23]


# Three layers read the input; no layer reads 3, 4 and 5.
FORK = Block(((1, 1, 3, 0, 0), (2, 3, 3, 0, 0), (3, 5, 0, 0, 1), (4, 6, 0, 1, 2), (5, 4, 0, 0, 0)))


def test_parameters_counted_by_hand():
    """Two stages of FORK with 4 and 8 filters on three channels, three classes."""
    assert loose_ends(FORK) == [3, 4, 5]

    def cell(inputs, window, filters):
        return window**2 * inputs * filters + 2 * filters

    first = cell(4, 3, 4) + cell(4 + 4, 1, 4) + cell(3 * 4, 1, 4)
    # Input and pooling have 4 channels, the convolution 8; the sum projects its input to 8; the
    # output reads 8 of the sum, 8 of the concatenation, 4 of the identity.
    second = cell(4, 3, 8) + cell(4, 1, 8) + cell(8 + 4, 1, 8) + cell(8 + 8 + 4, 1, 8)
    variables = models.abstract_variables(make(FORK), 8)
    count = sum(x.size for x in jax.tree.leaves(variables['params']))
    assert count == cell(3, 3, 4) + first + second + 8 * 3 + 3
    assert set(variables['params']['stage2.block1']) == {'layer1', 'layer3.1', 'layer4', 'output'}


def test_layers_that_no_other_reads_are_concatenated_in_order():
    """An output cell that passes one channel gives that channel of the loose ends."""
    block = Block(((1, 2, 3, 0, 0), (2, 3, 3, 0, 0), (3, 4, 0, 0, 0)))
    model = make(block, stage_sizes=(1,))
    variables = init(model, 0, 8)
    images = RNG.standard_normal((2, 8, 8, 3)).astype(np.float32)
    features = jax.jit(functools.partial(models.features, model), compiler_options=FAST)
    for channel in (1, 6, 11):
        kernel = np.zeros((1, 1, 12, 4), np.float32)
        kernel[0, 0, channel, 0] = np.sqrt(1 + 1e-5)  # cancels the norm
        variables['params']['stage1.block1']['output']['conv']['kernel'] = kernel
        result = features(variables, images)
        x = np.asarray(result['stem'])
        shifted = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.nan)
        taps = np.stack([shifted[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)])
        ends = (np.nanmax(taps, 0), np.nanmean(taps, 0), x)
        expected = np.maximum(np.concatenate(ends, -1)[..., channel], 0)
        np.testing.assert_allclose(result['stage1'][..., 0], expected, atol=1e-5)

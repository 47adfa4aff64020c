"""DenseNet beyond its golden rows: dropout and old names."""

import re

import jax
import numpy as np
import pytest
from flax import linen as nn
from golden import keyed, rows

from cls import models, weights
from cls.errors import UserError
from cls.models.registry import abstract_variables
from cls.nn.conv import Conv


@pytest.mark.parametrize('name', ['densenet100_k12_bc_cifar', 'densenet40_k12_cifar'])
def test_dropout_follows_every_convolution_but_the_first(name):
    """Section 4.2, as in the authors' code; packages have it only at the end of a layer."""
    model = models.create(name, block_sizes=(2, 1), dropout_rate=0.2)
    variables, calls = abstract_variables(model, 32), []

    def record(next_fun, args, kwargs, context):
        if isinstance(context.module, (Conv, nn.Dropout)):
            calls.append(type(context.module).__name__)
        return next_fun(*args, **kwargs)

    images = jax.ShapeDtypeStruct((2, 32, 32, 3), 'float32')
    with nn.intercept_methods(record):
        jax.eval_shape(
            lambda v, x: model.apply(
                v, x, True, mutable=['batch_stats'], rngs={'dropout': jax.random.key(0)}
            ),
            variables,
            images,
        )
    convolutions = (2 + 1) * (2 if model.bc else 1) + 1  # of the layers and the transition
    assert calls == ['Conv', *['Conv', 'Dropout'] * convolutions]


def test_published_files_have_old_names():
    row = rows.read('densenet')['torchvision:densenet121']
    state = keyed.state_dict(row.tensors, row.gain)
    old = {
        re.sub(r'(denselayer\d+\.(?:norm|conv))(\d)', r'\1.\2', name): x
        for name, x in state.items()
    }
    assert old.keys() != state.keys()
    variables, expected = (weights.from_torch(x, 'densenet121') for x in (old, state))
    for x, y in zip(jax.tree.leaves(variables), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(UserError, match='unused of 1423 tensors: 696'):
        weights.from_torch({**old, **state}, 'densenet121')

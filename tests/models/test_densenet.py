"""DenseNet: what its golden rows do not see."""

import jax
import pytest
from flax import linen as nn

from cls import models
from cls.models.registry import abstract_variables
from cls.nn.conv import Conv


@pytest.mark.parametrize('name', ['densenet100_k12_bc_cifar', 'densenet40_k12_cifar'])
def test_dropout_follows_every_convolution_but_the_first(name):
    """Section 4.2, as in the authors' code; packages have it at a layer's end alone."""
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

"""GeNet: the graph of a code, and networks of unpublished codes."""

import gradients
import jax
import numpy as np
import pytest

from cls import models
from cls.errors import UserError
from cls.models import genet
from cls.models.registry.init import init


@pytest.mark.parametrize(
    ('code', 'expected'),
    [
        # The two stages of the paper's figure 1; node 2 of the second is isolated.
        ('1-00-111', {1: (0,), 2: (1,), 3: (0,), 4: (1, 2, 3), 5: (4,)}),
        ('0-10-000-0011', {1: (0,), 3: (1,), 4: (0,), 5: (3, 4), 6: (5,)}),
        # The third stage of both networks.
        ('0-11-101-0001', {1: (0,), 2: (0,), 3: (1, 2), 4: (1, 3), 5: (4,), 6: (5,)}),
        ('0-00', {}),
        ('0', {}),
        ('1-11', {1: (0,), 2: (1,), 3: (1, 2), 4: (3,)}),
        ('0-10', {1: (0,), 3: (1,), 4: (3,)}),
        ('1-10', {1: (0,), 2: (1,), 3: (1,), 4: (2, 3)}),
    ],
)
def test_graph(code, expected):
    assert genet.graph(code) == expected


@pytest.mark.parametrize('name', ['genet_1', 'genet_2'])
def test_the_imagenet_networks_have_22_convolutions(name):
    variables = models.abstract_variables(models.create(name), 224)
    kernels = [x for x in jax.tree.leaves(variables['params']) if x.ndim == 4]
    assert len(kernels) == 22  # as the paper says


def test_a_network_of_another_code_uses_all_its_parameters():
    """The first stage is one convolution, the second has one node fewer than its code."""
    fields = {'widths': (4, 6), 'bins': 1, 'hidden': (8,), 'dropout_rate': 0.0}
    model = models.create('genet_1_cifar', genotype={'stages': ['0-00', '0-10']}, **fields)
    variables = init(model, 0, 8)
    assert list(variables['params']['genetic1']) == ['node0']
    assert sorted(variables['params']['genetic2']) == ['node0', 'node1', 'node3', 'node4']
    for path, gradient in gradients.by_path(model, variables, 8).items():
        if path[-2:] != ('conv', 'bias'):  # cancelled by normalization
            assert np.any(np.abs(gradient) > 1e-7), path


@pytest.mark.parametrize('code', ['1-0', '1-012', '1-02', '1--01', '', '101', '1-01-'])
def test_wrong_codes_are_refused(code):
    with pytest.raises(UserError, match='groups of 1, 2, 3'):
        models.create('genet_1', genotype={'stages': ['1-01', code]})


def test_a_code_for_each_width():
    model = models.create('genet_1_cifar', genotype={'stages': ['1-01']})
    with pytest.raises(UserError, match='1 stages, but widths'):
        models.abstract_variables(model, 32)
    with pytest.raises(UserError, match='no stage'):
        models.create('genet_1', genotype={'stages': []})

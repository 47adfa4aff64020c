"""Inception-v3's auxiliary head, absent from evaluation and so from the golden files."""

import functools
import math

import jax
import numpy as np

from cls import models
from cls.models.inception_v3 import AuxiliaryHead
from cls.models.registry import abstract_variables
from cls.nn import inception
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm

RNG = np.random.default_rng(3)


def test_with_its_auxiliary_head_the_network_has_torchvisions_parameters():
    params = abstract_variables(models.create('inception_v3'), 299)['params']
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(params)) == 27_161_264
    head = params['AuxLogits']
    kernels = {name: head[name]['conv']['kernel'].shape for name in ('conv0', 'conv1')}
    assert kernels == {'conv0': (1, 1, 768, 128), 'conv1': (5, 5, 128, 768)}
    assert head['fc']['kernel'].shape == (768, 1000)


def test_head_by_hand():
    """17x17 pixels: 25 means of 5x5, a 1x1 and a 5x5 convolution, a linear layer."""
    norm = functools.partial(BatchNorm, False, epsilon=1e-3)
    unit = functools.partial(inception.make_unit, conv=Conv, norm=norm, width=1 / 64)
    head = AuxiliaryHead(3, unit, unit, np.float32)
    images = RNG.standard_normal((2, 17, 17, 8)).astype(np.float32)
    shapes = jax.eval_shape(head.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda x: RNG.uniform(0.5, 1.5, x.shape).astype(np.float32), shapes)
    variables['params'] = jax.tree.map(lambda x: x - 1, variables['params'])
    ours = head.apply(variables, images)

    def unit_by_hand(name, x):  # x: (N, rows, columns, in), as large as the kernel
        of = variables['params'][name], variables['batch_stats'][name]
        (params, stats) = ({**part.get('conv', {}), **part['bn']} for part in of)
        y = np.einsum('...ijc,ijcf->...f', x, params['kernel'])
        y = (y - stats['mean']) / np.sqrt(stats['var'] + 1e-3) * params['scale'] + params['bias']
        return np.maximum(y, 0)

    starts = range(0, 13, 3)
    means = [[images[:, i : i + 5, j : j + 5].mean((1, 2)) for j in starts] for i in starts]
    x = np.moveaxis(np.array(means), 2, 0)  # (2, 5, 5, 8)
    x = unit_by_hand('conv1', unit_by_hand('conv0', x[:, :, :, None, None]))
    dense = variables['params']['fc']
    np.testing.assert_allclose(ours, x @ dense['kernel'] + dense['bias'], rtol=1e-4, atol=1e-5)
    assert np.ptp(ours) > 0.1

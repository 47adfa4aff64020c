"""Gradients that recompute: the same numbers from fewer stored arrays."""

import collections
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from arms import FILES
from compiling import FAST
from jax.extend import core
from test_train_step import SMALL_RESNET, five_losses

from cls import models
from cls.config import load as configs
from cls.errors import UserError
from cls.models.registry.init import init
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import BatchNorm
from cls.programs import abstract_batch
from cls.setup import set_up
from cls.steps import remat, traces
from cls.steps import sharding as meshes
from cls.steps.train_step import make_train_step

MUTABLE = ['batch_stats', 'aux_logits', 'penalties']


class Cell(nn.Module):
    """Two convolutions, two norms and a dropout of one input, added to the other."""

    train: bool
    dropout_rate: float

    @nn.compact
    def __call__(self, x, before):
        y = BatchNorm(self.train, name='norm1')(Conv(6, 3, name='conv1')(nn.relu(x)))
        y = nn.Dropout(self.dropout_rate, deterministic=not self.train)(y)
        y = BatchNorm(self.train, name='norm2')(Conv(6, 3, name='conv2')(nn.relu(y)))
        if self.train:
            self.sow('penalties', 'square', jnp.mean(jnp.square(y)))
        return y + before


class Cells(nn.Module):
    """Stages of cells that take the last two outputs; an auxiliary head after the first stage."""

    sizes: tuple[int, ...] = (2, 2, 1)
    dropout_rate: float = 0.5
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train=False, progress=1.0):
        outputs = [Conv(6, name='conv0')(images)] * 2
        self.sow('intermediates', 'stem', outputs[-1])
        for stage, size in enumerate(self.sizes, 1):
            for i in range(size):
                cell = Cell(train, self.dropout_rate, name=f'cell{stage}_{i}')
                outputs.append(cell(outputs[-1], outputs[-2] * progress))
            self.sow('intermediates', f'stage{stage}', outputs[-1])
            if stage == 1 and (train or self.is_initializing()):
                aux = Dense(self.num_classes, name='aux_head')(outputs[-1].mean((1, 2)))
                if train:
                    self.sow('aux_logits', 'aux', aux)
        x = outputs[-1].mean((1, 2))
        self.sow('intermediates', 'pre_logits', x)
        return Dense(self.num_classes, name='head')(x)


def loss_of(mode, model, variables):
    """loss(params, images) -> (the sum of all that a net in training returns, its collections)."""
    stats = {name: value for name, value in variables.items() if name != 'params'}
    arrays = {'rngs': {'dropout': jax.random.key(3)}}
    if models.takes_progress(model):
        arrays['progress'] = jnp.float32(0.7)

    def loss(params, images):
        logits, updated = remat.apply(
            mode, model, {'params': params, **stats}, images, MUTABLE, **arrays
        )
        more = {name: updated.get(name, {}) for name in ('aux_logits', 'penalties')}
        return sum(jnp.mean(jnp.square(x)) for x in jax.tree.leaves((logits, more))), updated

    return loss


def gradient(mode, model, variables, images):
    """Returns ((loss, collections), gradients)."""
    compiled = jax.jit(
        jax.value_and_grad(loss_of(mode, model, variables), has_aux=True), compiler_options=FAST
    )
    return jax.device_get(compiled(variables['params'], images))


def assert_same(ours, expected):
    (loss, updated), gradients = ours
    (expected_loss, expected_updated), expected_gradients = expected
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    for mine, theirs, least in (
        (updated, expected_updated, 1e-6),
        (gradients, expected_gradients, 1e-5),
    ):
        assert jax.tree.structure(mine) == jax.tree.structure(theirs)
        # Networks without norms keep nothing.
        scale = max((np.abs(x).max() for x in jax.tree.leaves(theirs)), default=0)
        for x, y in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
            error = np.linalg.norm(np.float64(x) - np.float64(y))
            assert error <= least * max(np.linalg.norm(np.float64(y)), scale)


@pytest.fixture(scope='module')
def cells():
    """A net of cells, its variables, images, and what `gradient` returns of them."""
    model = Cells((2, 1))
    variables = init(model, 0, 5)
    images = np.random.default_rng(0).standard_normal((4, 5, 5, 3)).astype(np.float32)
    return model, variables, images, gradient('', model, variables, images)


@pytest.mark.parametrize('mode', ['stage', 'block'])
def test_gradients_statistics_and_all_that_is_sown_are_the_same(mode, cells):
    model, variables, images, expected = cells
    ours = gradient(mode, model, variables, images)
    assert_same(ours, expected)
    assert {'batch_stats', 'aux_logits', 'penalties'} == ours[0][1].keys()


def kept(mode, sizes):
    """How many different arrays (N, H, W, C) the gradient of a net of cells is computed from."""
    model = Cells(sizes)
    variables = models.registry.abstract_variables(model, 5)
    images = jax.ShapeDtypeStruct((4, 5, 5, 3), jnp.float32)

    def backward(variables, images):
        loss = loss_of(mode, model, variables)
        return jax.vjp(lambda params: loss(params, images)[0], variables['params'])[1]

    jaxpr = jax.make_jaxpr(backward)(variables, images).jaxpr
    arrays = {x for x in jaxpr.outvars if isinstance(x, core.Var)}
    shapes = collections.Counter(x.aval.shape for x in arrays)
    return shapes[4, 5, 5, 6]


@pytest.mark.parametrize(
    ('mode', 'first', 'last'),
    [
        ('block', 1, 1),  # kept of a cell, in any position
        ('stage', 0, None),  # kept of a stage, of any length; None: all
    ],
)
def test_what_one_more_cell_adds_to_what_is_kept(mode, first, last):
    everything = kept('', (3, 2, 1)) - kept('', (2, 2, 1))
    assert everything > 4
    base = kept(mode, (2, 2, 1))
    assert kept(mode, (3, 2, 1)) - base == first
    assert kept(mode, (2, 2, 2)) - base == (everything if last is None else last)


def convolutions(jaxpr):
    """How many a program has, with those of the programs in it."""
    inside = core.jaxprs_in_params
    return sum(
        (eqn.primitive.name == 'conv_general_dilated') + sum(map(convolutions, inside(eqn.params)))
        for eqn in jaxpr.eqns
    )


def convolutions_of_a_step(mode):
    setup = with_cells(('remat', mode), sizes=(2, 2, 2))
    state, optimizer = setup.new_state_shapes()
    step = make_train_step(setup.model, optimizer, setup.recipe, meshes.batch_sharding(setup.mesh))
    batch = abstract_batch(setup, setup.info.image_shape[0])
    return convolutions(jax.make_jaxpr(step)(state, batch).jaxpr)


def test_a_training_step_computes_once_more_what_was_not_kept():
    """Of three stages of two cells, of two convolutions each, all but the last piece."""
    everything = convolutions_of_a_step('')
    assert everything >= 3 * 12
    assert convolutions_of_a_step('stage') == everything + 2 * 4
    assert convolutions_of_a_step('block') == everything + 2 * 5


def names_of_blocks(name, **fields):
    variables = models.registry.abstract_variables(models.create(name, **fields), 64)
    return {'/'.join(path) for path in traces.blocks(variables['params'])}


def test_what_blocks_are():
    blocks = {'layer1/0', 'layer1/1', 'layer2/0', 'layer3/0', 'layer4/0'}
    assert names_of_blocks('seresnet50', stage_sizes=(2, 1, 1, 1)) == blocks
    cells = {'cell_stem_0', 'cell_stem_1', 'cell_0', 'reduction_cell_0', 'cell_1'}
    cells |= {'reduction_cell_1', 'cell_2'}
    assert names_of_blocks('nasnet_a_mobile', cells=1, aux_head=False) == cells
    layers = {f'denseblock{i}/denselayer{j}' for i, j in ((1, 1), (1, 2), (2, 1))}
    assert names_of_blocks('densenet121', block_sizes=(2, 1)) == layers
    assert names_of_blocks('vgg11') == set()


def with_cells(*overrides, sizes=(1, 1, 1), devices=1):
    return dataclasses.replace(tiny.setup(*overrides, devices=devices), model=Cells(sizes))


@pytest.mark.sweep
def test_a_step_of_microbatches_on_many_devices_is_the_same():
    overrides = (('accumulate', '2'), ('mesh.fsdp', '2'), ('freeze_bn', '1 steps'))
    losses, expected, *_ = tiny.steps(with_cells(*overrides, devices=4), 2)
    others, ours, *_ = tiny.steps(with_cells(*overrides, ('remat', 'block'), devices=4), 2)
    np.testing.assert_allclose(others, losses, rtol=1e-6)
    for name in ('params', 'batch_stats'):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
            *jax.device_get((getattr(ours, name), getattr(expected, name))),
        )


def test_an_unknown_value():
    config = configs.load('configs/resnet.py', (('remat', 'stages'),))
    with pytest.raises(UserError) as raised:
        set_up(config, jax.devices()[:1])
    assert str(raised.value) == (
        "config.remat is 'stages': expected '', 'stage' or 'block'. Did you mean stage?"
    )


@pytest.mark.sweep
@pytest.mark.parametrize('mode', ['stage', 'block'])
def test_losses_of_a_real_net_sharded_and_not(mode):
    expected, _ = five_losses(1)
    for devices, more in ((1, ()), (8, (('mesh.fsdp', '4'),)), (2, (('accumulate', '4'),))):
        losses, _ = five_losses(devices, ('remat', mode), *more, base=SMALL_RESNET)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.sweep
@pytest.mark.parametrize('file', [file for file in FILES if 'ensemble' not in file])
def test_gradients_of_the_net_of_each_config(file):
    config = configs.load(file)
    size = config.data.image_size
    model = configs.create_model(config, 10)
    variables = init(model, 0, size, 1)
    images = np.random.default_rng(1).standard_normal((8, size, size, 1)).astype(np.float32)
    expected = gradient('', model, variables, images)
    for mode in ('stage', 'block'):
        assert_same(gradient(mode, model, variables, images), expected)


def temporaries_on_tpu(mode):
    """Bytes of the step of a ResNet-20 without the state, with 256 images of 128 pixels a chip."""
    fields = {'remat': mode, 'batch': 1024, 'data.image_size': 128, 'model.dtype': 'bfloat16'}
    fields |= {'data.name': 'synthetic', 'data.num_classes': 10}
    run = subprocess.run(
        [
            *(sys.executable, '-m', 'cls.tools.compile_for', '--quick', '--json'),
            *('--topology', 'v5e:2x2', '--config', 'configs/resnet.py'),
            *(f'--config.{name}={value}' for name, value in fields.items()),
        ],
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])['memory']['temporaries']


@pytest.mark.sweep
@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed')
def test_a_tpu_needs_less_memory():
    everything = temporaries_on_tpu('')
    assert everything > 2**30
    assert temporaries_on_tpu('stage') < 0.85 * everything
    assert temporaries_on_tpu('block') < 0.6 * everything

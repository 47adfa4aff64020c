"""Loops over equal blocks against the unchanged networks: the same numbers, a shorter program."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST, jit

from cls import models
from cls.nn.conv import Conv
from cls.nn.cpu import looped
from cls.nn.cpu.lowering import xla_conv
from cls.nn.norm import batch_norm
from cls.steps import loops
from cls.steps import sharding as meshes

COLLECTIONS = ['batch_stats', 'penalties']


class Pair(nn.Module):
    """Two convolutions of the outputs of the two blocks before, as in a cell of NASNet."""

    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        x = self.norm(name='bn1')(Conv(4, 3, name='conv1')(x))
        y = Conv(4, 3, name='conv2')(nn.relu(y))
        key = self.make_rng('dropout')
        self.sow('penalties', 'size', jnp.sum(jnp.square(x)))
        return x + y * jax.random.bernoulli(key, 0.5, (len(y), 1, 1, 1))


class TwoBefore(nn.Module):
    """Six blocks of the form of `Pair`."""

    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        before, x = images, nn.relu(Conv(4, 3, name='stem')(images))
        before = Conv(4, 1, name='other_stem')(before)
        for i in range(6):
            before, x = x, Pair(batch_norm(self, train), name=f'pair{i}')(before, x)
        return x.mean((1, 2))


NETWORKS = {
    'equal blocks': functools.partial(models.create, 'resnet20_cifar', stage_sizes=(4, 1, 1)),
    'random numbers and constants of each block': functools.partial(
        models.create, 'resnet110_sd_cifar', stage_sizes=(4, 1, 1)
    ),
    'inputs of two blocks before': TwoBefore,
}


def program_of(model, variables, images):
    """Returns the loss, and a function that gives it, its gradients and new statistics."""

    def loss(params):
        arguments = {'params': params, 'batch_stats': variables['batch_stats']}
        rngs = {'dropout': jax.random.key(3)}
        logits, new = loops.apply(model, arguments, images, mutable=COLLECTIONS, rngs=rngs)
        return jnp.mean(jnp.square(logits)), (logits, new)

    return jax.value_and_grad(loss, has_aux=True)


def start(make):
    model, images = make(), jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    rngs = {'params': jax.random.key(1), 'dropout': jax.random.key(2)}
    variables = jit(model.init)(rngs, images)
    return model, variables | {'batch_stats': variables.get('batch_stats', {})}, images


def loop_count(program, params):
    return str(jax.make_jaxpr(lambda p: program(p)[0][0])(params)).count(' scan[')


@pytest.mark.parametrize('name', NETWORKS)
def test_a_loop_gives_the_numbers_of_copies(name, monkeypatch):
    model, variables, images = start(NETWORKS[name])
    program = program_of(model, variables, images)
    assert loop_count(program, variables['params']) == 0  # too few blocks
    expected = jit(program)(variables['params'])
    monkeypatch.setattr(loops, 'MIN_BLOCKS', 3)
    assert loop_count(program, variables['params']) == 2  # forward and backward
    values = jit(program)(variables['params'])
    for x, y in zip(*map(jax.tree.leaves, (values[0], expected[0])), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected[1]))
    for x, y in zip(*map(jax.tree.leaves, (values[1], expected[1])), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * scale)


def test_blocks_that_differ_are_no_loop(monkeypatch):
    monkeypatch.setattr(loops, 'MIN_BLOCKS', 2)
    model, variables, images = start(
        functools.partial(models.create, 'resnet20_cifar', stage_sizes=(1, 1, 1))
    )
    assert loop_count(program_of(model, variables, images), variables['params']) == 0


def test_a_deep_network_has_the_program_of_a_loop():
    """At the real limit, and with operations whose number does not depend on the depth."""

    def shape(blocks):
        sizes = (1, 1, blocks)
        model = models.create('resnet110_cifar', stage_sizes=sizes)
        images = jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)

        def forward(variables, images):
            return loops.apply(model, variables, images, mutable=COLLECTIONS)[0]

        program = jax.make_jaxpr(forward)(variables, images)
        kinds = [eqn.primitive.name for eqn in program.eqns]
        return [kinds.count(name) for name in ('scan', 'conv_general_dilated', 'custom_vjp_call')]

    deep = shape(loops.MIN_BLOCKS + 1)
    assert deep == shape(loops.MIN_BLOCKS + 4)
    assert deep[0] == 1


def test_a_loop_on_several_devices_gives_the_same_gradients(monkeypatch):
    monkeypatch.setattr(loops, 'MIN_BLOCKS', 3)
    model, variables, images = start(NETWORKS['equal blocks'])
    expected = jit(program_of(model, variables, images))(variables['params'])[1]
    mesh = meshes.make_mesh(fsdp=2)

    def gradients(params, images):
        gathered = meshes.gathered(params, mesh)
        return program_of(model, variables, images)(gathered)[1]

    where = meshes.state_shardings(variables['params'], mesh)
    spread = jax.device_put(images, meshes.batch_sharding(mesh))
    params = jax.tree.map(jax.device_put, variables['params'], where)
    run = jax.jit(gradients, out_shardings=where, compiler_options=FAST)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    for x, y in zip(*map(jax.tree.leaves, (run(params, spread), expected)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize('pads', [((1, 1), (1, 1)), ((0, 2), (1, 0)), ((0, 0), (0, 0))])
def test_the_convolution_of_loops_has_the_gradients_of_the_plain_one(pads):
    images = jax.random.normal(jax.random.key(0), (3, 6, 7, 2))
    kernel = jax.random.normal(jax.random.key(1), (3, 2, 2, 4))

    def gradients(conv):
        return jit(jax.grad(lambda *args: jnp.sum(jnp.sin(conv(*args))), (0, 1)))(images, kernel)

    expected = gradients(lambda x, k: xla_conv(x, k, (1, 1), pads))
    values = gradients(lambda x, k: looped.conv(x, k, pads))
    for x, y in zip(values, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_programs_for_other_platforms_have_the_plain_gradients():
    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in ((2, 6, 6, 2), (3, 3, 2, 4))]

    def text(conv):
        step = jax.jit(jax.grad(lambda x, k: jnp.sum(conv(x, k)), (0, 1)))
        return step.trace(*shapes).lower(lowering_platforms=('tpu',)).as_text()

    pads = ((1, 1), (1, 1))
    ours, plain = (
        text(functools.partial(conv, pads=pads))
        for conv in (looped.conv, functools.partial(xla_conv, strides=(1, 1)))
    )
    for operation in ('convolution', 'transpose', 'reverse'):
        assert ours.count(f'stablehlo.{operation}') == plain.count(f'stablehlo.{operation}')


@pytest.mark.parametrize('rule', ['backward', 'forward', 'in a jitted function'])
def test_blocks_whose_derivatives_differ_in_a_number_are_not_a_loop(monkeypatch, rule):
    monkeypatch.setattr(loops, 'MIN_BLOCKS', 3)

    def scaled(factor):
        @jax.custom_vjp
        def same(x):
            return 1.0 * x

        kept = factor if rule == 'forward' else 1.0
        used = 1.0 if rule == 'forward' else factor
        same.defvjp(lambda x: (1.0 * x, kept), lambda kept, grad: (kept * used * grad,))
        return jax.jit(same) if rule == 'in a jitted function' else same

    class Blocks(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            x = images
            for i in range(4):
                x = Scaled(name=f'block{i}')(x, scaled((i + 1) / 4))
            return x.mean((1, 2))

    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x, function):
            return nn.relu(function(Conv(3, 3, name='conv')(x)))

    model, variables, images = start(Blocks)

    def gradient(apply):
        def loss(params):
            arguments = variables | {'params': params}
            return jnp.sum(jnp.square(apply(arguments)[0]))

        return jit(jax.grad(loss))(variables['params'])

    ours = gradient(lambda v: loops.apply(model, v, images, mutable=COLLECTIONS))
    plain = gradient(lambda v: model.apply(v, images, train=True, mutable=COLLECTIONS))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)

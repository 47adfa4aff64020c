"""The model of each config's digits preset, small and with all its parts: gradients and modes."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST
from flax import linen as nn

from cls import models
from cls.config import load as configs
from cls.models.registry.init import init
from cls.nn.cpu import conv, lowering, pool
from cls.nn.norm import BatchNorm

RNG = np.random.default_rng(6)
FILES = sorted(
    f'configs/{path.name}'
    for path in (configs.ROOT / 'configs').glob('*.py')
    if path.name not in ('common.py', '__init__.py')
)
SINGLE = [file for file in FILES if 'ensemble' not in file]  # an ensemble has no model of its own
SLOW = tuple(  # to compile; a smaller model of each kind remains
    f'configs/{name}.py'
    for name in (
        'amoebanet',
        'crunet',
        'darts',
        'densenet',
        'dpn',
        'efficientnet',
        'hier',
        'inception_resnet_v2',
        'inception_v3',
        'inception_v4',
        'mnasnet',
        'mobilenetv3',
        'nasnet',
        'pnasnet',
        'polynet',
        'preactresnet',
        'proxylessnas',
        'pyramidnet',
        'res2net',
        'residual_attention',
        'resnext',
        'shufflenet',
        'shufflenetv2',
        'sknet',
        'stochastic_depth',
        'xception',
    )
)
STEPS = 8  # every path survives in one of these, where paths are dropped for a batch


@pytest.fixture
def plain(monkeypatch):
    """XLA's own convolutions and pooling: slow on CPU, but fast to compile for small images.

    Their replacements on CPU have separate tests.
    """
    monkeypatch.setattr(conv, 'conv', lowering.xla_conv)
    monkeypatch.setattr(pool, 'max_pool', lowering.xla_max_pool)
    monkeypatch.setattr(pool, 'sum_pool', lowering.xla_sum_pool)


def setup(file):
    """Returns (config, model, variables, a batch of 8 images)."""
    config = configs.load(file)
    model, size = configs.create_model(config, 10), config.data.image_size
    images = RNG.standard_normal((8, size, size, 1)).astype(np.float32)
    return config, model, init(model, 0, size, 1), images


def apply(model, variables, images, train, key):
    """Returns logits, auxiliary logits and statistics."""
    logits, updated = model.apply(
        variables,
        images,
        train=train,
        mutable=['batch_stats', 'aux_logits'],
        rngs={'dropout': key} if train else None,
    )
    return logits, updated.get('aux_logits', {}), updated.get('batch_stats', {})


def loss_of(config, logits, heads):
    """Returns the mean cross entropy of the logits, plus that of auxiliary ones by their weight."""
    targets = jax.nn.one_hot(np.arange(8) % 10, 10)
    total = -jnp.mean(targets * jax.nn.log_softmax(logits))
    for head in jax.tree.leaves(heads):
        total -= config.loss.aux_weight * jnp.mean(targets * jax.nn.log_softmax(head))
    return total


def summary(gradients):
    """Returns, for each gradient, (whether all values are finite, whether any is non-zero)."""
    return jax.tree.map(lambda g: (jnp.isfinite(g).all(), (g != 0).any()), gradients)


def check_finite(summaries):
    """Checks that all gradients are finite; returns path -> whether the gradient is non-zero."""
    leaves = jax.tree_util.tree_leaves_with_path(summaries, is_leaf=lambda x: isinstance(x, tuple))
    assert all(finite for _, (finite, _) in leaves), leaves
    return {jax.tree_util.keystr(path): bool(non_zero) for path, (_, non_zero) in leaves}


def in_training(next_fun, args, kwargs, context):
    """An interceptor that makes batch norms use the batch's statistics in evaluation too."""
    if isinstance(context.module, BatchNorm):
        object.__setattr__(context.module, 'train', True)
    return next_fun(*args, **kwargs)


def random_rates(model):
    return [name for name in models.fields(type(model)) if name.endswith('_rate')]


@pytest.mark.parametrize(
    'file',
    [pytest.param(f, marks=pytest.mark.sweep if f in SLOW else ()) for f in SINGLE],
)
def test_gradients_and_modes_without_random_drops(file, plain):
    """Every parameter gets a gradient; evaluation differs from training only by statistics."""
    config, model, variables, images = setup(file)
    model = model.clone(**dict.fromkeys(random_rates(model), 0.0))

    @functools.partial(jax.jit, compiler_options=FAST)
    def both(variables, key):
        def loss(params):
            of = {**variables, 'params': params}
            trained, heads, stats = apply(model, of, images, True, key)
            return loss_of(config, trained, heads), (trained, stats)

        gradients, (trained, stats) = jax.grad(loss, has_aux=True)(variables['params'])
        with nn.intercept_methods(in_training):
            evaluated, _, _ = apply(model, variables, images, False, key)
        return summary(gradients), trained, evaluated, stats

    summaries, trained, evaluated, stats = jax.device_get(both(variables, jax.random.key(0)))
    seen = check_finite(summaries)
    assert all(seen.values()), [path for path, non_zero in seen.items() if not non_zero]
    np.testing.assert_allclose(evaluated, trained, rtol=1e-4, atol=1e-5)
    old_and_new = zip(*map(jax.tree.leaves, (variables.get('batch_stats', {}), stats)), strict=True)
    assert all(np.any(old != new) for old, new in old_and_new if old.dtype == np.float32)


@pytest.mark.sweep
@pytest.mark.parametrize('file', SINGLE)
def test_every_parameter_gets_a_gradient_among_random_drops(file, plain):
    config, model, variables, images = setup(file)
    if not any(getattr(model, name) for name in random_rates(model)):
        pytest.skip('this model drops nothing')

    @functools.partial(jax.jit, compiler_options=FAST)
    def gradients(variables, key):
        def loss(params):
            of = {**variables, 'params': params}
            logits, heads, _ = apply(model, of, images, True, key)
            return loss_of(config, logits, heads)

        return summary(jax.grad(loss)(variables['params']))

    seen = {}
    for step in range(STEPS):
        now = check_finite(jax.device_get(gradients(variables, jax.random.key(step))))
        seen = {path: seen.get(path, False) or non_zero for path, non_zero in now.items()}
        if all(seen.values()):
            return
    raise AssertionError([path for path, non_zero in seen.items() if not non_zero])


@pytest.mark.learn
@pytest.mark.parametrize('file', FILES)
def test_the_digits_are_learned(file, tmp_path, record_property):
    """A user's first run: one device, an empty compilation cache."""
    environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    environment['CLS_CACHE_DIR'] = str(tmp_path / 'cache')
    command = [
        sys.executable,
        '-m',
        'cls.main',
        '--config',
        file,
        '--workdir',
        str(tmp_path / 'run'),
    ]
    subprocess.run(command, check=True, cwd=configs.ROOT, env=environment)
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    record_property(f'digits/{file}', [round(result['test/top1'], 2), round(result['seconds'])])
    assert result['test/top1'] > 90

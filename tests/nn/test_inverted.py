"""Inverted residuals, and networks of them as strings."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from cls.nn import inverted
from cls.nn.conv import Conv
from cls.nn.inverted import Genotype, InvertedResidual, Run, decode, round_channels
from cls.nn.norm import BatchNorm

RNG = np.random.default_rng(11)
NORM = functools.partial(BatchNorm, False)


@pytest.mark.parametrize(
    ('width', 'channels'),
    [
        (16, 16),
        (3, 8),
        (12, 16),  # a half goes up
        (11.9, 16),  # 8 would be less than 90 %
        (8.4, 8),
        (18, 24),  # 16 would be less than 90 %
        (17.7, 16),
        (88.08, 88),
        (1280 * 1.4, 1792),
    ],
)
def test_channels_are_rounded_to_eights(width, channels):
    assert round_channels(width) == channels


def test_channels_are_rounded_to_other_divisors():
    assert round_channels(10, 4) == 12
    assert round_channels(10, 1) == 10


@pytest.mark.parametrize(
    ('text', 'run'),
    [
        ('r2_k3_s1_e6_o24', Run(2, 3, 1, 6.0, 24)),
        ('r1_k5_s2_e3.67_o40_se0.25', Run(1, 5, 2, 3.67, 40, 0.25)),
        ('se0.5_o8_e1_s1_k3_r1_noskip', Run(1, 3, 1, 1.0, 8, 0.5, skip=False)),
        ('r1_k7_s1_e6_hswish_o8', Run(1, 7, 1, 6.0, 8, act='hswish')),
        ('r1_k3_s1_e4_o24_fused_fc8', Run(1, 3, 1, 4.0, 24, fused=True, inputs=8)),
    ],
)
def test_strings_describe_runs_of_blocks(text, run):
    assert decode(text) == run


@pytest.mark.parametrize(
    ('text', 'pattern'),
    [
        ('r1_k3_s1_e1', 'lacks o'),
        ('k3_e1_o8', 'lacks r, s'),
        ('r1_k3_s1_e1_o8_x4', "cannot read 'x4'"),
        ('r1_k3_s1_e1_o8_gelu', "'gelu'.*relu6"),
        ('r1.5_k3_s1_e1_o8', "'r1.5'"),
        ('r1_k3_s11_e1_i32_o16', "'i32'"),
        ('r0_k3_s1_e1_o8', 'at least 1'),
        ('r1_k3_s1_e0.5_o8', 'at least 1'),
        ('r1_k4_s1_e1_o8', 'odd k'),
        ('r1_k3_s1_e1_o8_r2', 'r twice'),
        ('', "''"),
    ],
)
def test_other_strings_are_refused(text, pattern):
    for refuse in (decode, lambda text: Genotype((('r1_k3_s1_e1_o8',), (text,)))):
        with pytest.raises(ValueError, match=pattern) as caught:
            refuse(text)
        assert '\n' not in str(caught.value)


GENOTYPE = Genotype((('r1_k3_s1_e1_o16',), ('r2_k3_s2_e2_o24', 'r1_k5_s1_e3_o24_noskip')))


def test_scaled():
    assert inverted.scaled(GENOTYPE) == [[decode(t) for t in stage] for stage in GENOTYPE.stages]
    stages = inverted.scaled(GENOTYPE, width=1.4, depth=1.2)
    assert [[(r.features, r.repeats) for r in stage] for stage in stages] == [
        [(24, 2)],  # 22.4, 1.2
        [(32, 3), (32, 2)],  # 33.6, 2.4 and 1.2
    ]


class Network(nn.Module):
    """All blocks of GENOTYPE, without stem and head."""

    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x):
        block = functools.partial(InvertedResidual, conv=Conv, norm=NORM)
        runs = inverted.scaled(GENOTYPE)
        return inverted.stages(self, x, runs, block, 'relu', self.drop_rate)


def test_stages_number_blocks_and_let_drop_rates_grow():
    calls = []

    def record(next_fun, args, kwargs, context):
        if isinstance(context.module, InvertedResidual):
            block = context.module
            calls.append((block.name, block.strides, block.window, block.skip, args[1]))
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(record):
        keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
        images = jax.ShapeDtypeStruct((1, 8, 8, 16), jnp.float32)
        _, variables = jax.eval_shape(
            functools.partial(Network(0.4).init_with_output, mutable=True), keys, images
        )
    names = [name for name, _ in inverted.blocks(inverted.scaled(GENOTYPE))]
    assert (
        names == ['blocks.0.0', 'blocks.1.0', 'blocks.1.1', 'blocks.1.2'] == [c[0] for c in calls]
    )
    assert [call[1:4] for call in calls] == [
        (1, 3, True),
        (2, 3, True),
        (1, 3, True),
        (1, 5, False),
    ]
    assert [call[4] for call in calls] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert set(variables['params']) == set(names)
    shapes = {name: values[0].shape for name, values in variables['intermediates'].items()}
    assert shapes == {'stage1': (1, 8, 8, 16), 'stage2': (1, 4, 4, 24)}


def block(images, features, strides=1, **fields):
    """Returns a block with expansion 2, a function (images, rate, key), and its variables."""
    unit = InvertedResidual(features, 3, strides, 2, Conv, NORM, **fields)
    shapes = jax.eval_shape(unit.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda v: np.float32(RNG.uniform(0.5, 1.5, v.shape)), shapes)
    signs = jax.tree.map(lambda v: RNG.choice([-1, 1], v.shape), variables['params'])
    variables['params'] = jax.tree.map(lambda v, s: np.float32(v * s), variables['params'], signs)

    @functools.partial(jax.jit, compiler_options=FAST)
    def apply(x, rate=0.0, key=None):
        return unit.apply(variables, x, rate, rngs=None if key is None else {'dropout': key})

    return apply, variables


def expected_residual(variables, x, groups, strides):
    """Returns the residual in NumPy and float64, without the shortcut."""
    params, stats = (
        jax.tree.map(np.float64, variables[collection]) for collection in ('params', 'batch_stats')
    )

    def norm(x, name):
        scale, bias = params[name]['scale'], params[name]['bias']
        return (x - stats[name]['mean']) / np.sqrt(stats[name]['var'] + 1e-5) * scale + bias

    def pointwise(x, name):
        kernel = params[name]['kernel'][0, 0]
        return np.concatenate(
            [
                part @ weight
                for part, weight in zip(
                    np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True
                )
            ],
            axis=-1,
        )

    y = norm(pointwise(x, 'conv_pw'), 'bn1')
    y = np.clip(y, 0, 6) if groups == 1 else y  # no rectifier with groups (IGCV3)
    order = np.arange(y.shape[-1]).reshape(groups, -1).T.ravel()  # interleaved groups
    y = y[..., order]
    padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = params['conv_dw']['kernel'][:, :, 0]
    y = sum(padded[:, i : i + 6, j : j + 6] * kernel[i, j] for i, j in np.ndindex(3, 3))
    y = np.clip(norm(y[:, ::strides, ::strides], 'bn2'), 0, 6)
    return norm(pointwise(y, 'conv_pwl'), 'bn3')


@pytest.mark.parametrize(
    ('features', 'strides', 'groups', 'skip'),
    [(8, 1, 1, True), (8, 1, 2, True), (8, 1, 1, False), (8, 2, 1, True), (16, 1, 2, True)],
)
def test_inverted_residual(features, strides, groups, skip):
    x = RNG.standard_normal((2, 6, 6, 8)).astype(np.float32)
    apply, variables = block(x, features, strides, groups=groups, skip=skip)
    expected = expected_residual(variables, x, groups, strides)
    if skip and features == 8 and strides == 1:
        expected = x + expected
    np.testing.assert_allclose(apply(x), expected, rtol=1e-4, atol=1e-4)


def test_dropped_residuals_leave_the_shortcut():
    x = RNG.standard_normal((64, 4, 4, 8)).astype(np.float32)
    apply, _ = block(x, 8)
    residual = np.asarray(apply(x)) - x
    out = np.asarray(apply(x, 0.25, jax.random.key(0))) - x
    dropped = np.all(out == 0, (1, 2, 3))
    assert 0.1 < dropped.mean() < 0.45
    np.testing.assert_allclose(out[~dropped], residual[~dropped] / 0.75, rtol=1e-3, atol=1e-4)


def test_renames_from_and_to_other_packages():
    modules = [('blocks.0.0.conv_dw', 'f.1'), ('blocks.0.0.bn2', 'f.2'), ('bn2', 'f.9')]
    modules += [
        ('blocks.0.0.conv_pwl', 'f.3'),
        ('blocks.0.0.bn3', 'f.4'),
        ('blocks.1.0.bn2', 'f.5'),
    ]

    def renamed(pairs, name):
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        return name

    ours = [f'{name}.weight' for name, _ in modules]
    theirs = [f'{name}.weight' for _, name in modules]
    timm = ['blocks.0.0.conv_dw', 'blocks.0.0.bn1', 'bn2']
    timm = [
        f'{n}.weight' for n in (*timm, 'blocks.0.0.conv_pw', 'blocks.0.0.bn2', 'blocks.1.0.bn2')
    ]
    assert [renamed(inverted.renames(modules), name) for name in ours] == theirs
    assert [renamed(inverted.TIMM, name) for name in ours] == timm
    assert [renamed(inverted.from_timm(modules), name) for name in timm] == theirs

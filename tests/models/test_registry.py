"""Every registered variant: counted cost, contract of shapes and dtypes, initial values."""

import ast
import collections
import csv
import functools
import importlib
import inspect
import math
import pkgutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from jax.extend import core
from shared import SHARED

from cls import models
from cls.errors import UserError
from cls.models import registry
from cls.models.registry import init as model_init
from cls.models.registry.complexity import complexity
from cls.models.registry.init import init
from cls.nn import init as initialisers

SYSTEMS = SHARED / 'systems.csv'
NAMES = models.names()
KEY = jax.random.key(0)


def small(name, **overrides):
    return zoo.shrunk(models.create(name, **overrides))


def images(size, batch=2):
    return jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)


# ------------------------------------------------------------------------------------- cost


@pytest.mark.parametrize('name', zoo.one_of_each())
def test_counts_are_those_registered(name):
    """The stored counts of all are those registered too, see tests/tools/test_counts.py."""
    variant = models.variant(name)
    cost = complexity(models.create(name), variant.input_size)
    assert (cost.params, cost.macs) == (variant.params, variant.macs)


def test_counting_by_hand():
    """A module whose parameters and multiply-adds are counted by hand."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Conv(4, (3, 3), (2, 2), 'SAME', use_bias=True)(x)  # 8x8 -> 4x4
            x = nn.Conv(8, (3, 3), feature_group_count=4, use_bias=False)(x)
            x = jax.checkpoint(jnp.tanh)(x)
            return nn.Dense(5)(x.reshape(len(x), -1))

    cost = complexity(Net(), 8)
    assert cost.params == 9 * 3 * 4 + 4 + 9 * 1 * 8 + 128 * 5 + 5
    assert cost.macs == 16 * 9 * 3 * 4 + 16 * 9 * 8 + 128 * 5


def rows_of(system):
    """Returns the rows of the list by the text of `variant`, with |ref_name where ambiguous."""
    with SYSTEMS.open(newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['system'] in system.CSV]
    short = collections.Counter(row['variant'] for row in rows)
    return {
        row['variant'] if short[row['variant']] == 1 else f'{row["variant"]}|{row["ref_name"]}': row
        for row in rows
    }


@pytest.mark.skipif(not SYSTEMS.is_file(), reason=f'{SYSTEMS} is not on this machine')
@pytest.mark.parametrize('file', zoo.SYSTEMS)
def test_counts_are_those_of_the_list(file):
    system = zoo.SYSTEMS[file]
    rows = rows_of(system)
    assert rows.keys() == {*system.LISTED.values(), *system.UNLISTED}
    for name, text in system.LISTED.items():
        row = rows[text]
        if row['ref_params_exact']:
            members = {e.name: e.members for e in models.ensembles()}.get(name, (name,))
            params, macs = (
                sum(getattr(models.variant(member), field) for member in members)
                for field in ('params', 'macs')
            )
            assert params == int(row['ref_params_exact']), name
            listed = row['ref_macs_M_measured']  # in millions, with two decimals or one
            tolerance = 0.06 if len(listed.partition('.')[2]) == 1 else 0.006
            tolerance *= len(members)  # the list adds rounded numbers
            assert macs / 1e6 == pytest.approx(float(listed), abs=tolerance), name


def test_every_system_is_known_to_the_tests():
    files = {module.name for module in pkgutil.iter_modules(models.__path__)}
    systems = {v.system.name for v in map(models.variant, NAMES)}
    assert files - {'registry'} == zoo.SYSTEMS.keys()
    default = [name for system in zoo.SYSTEMS.values() for name in system.DEFAULT]
    assert {models.variant(name).system.name for name in default} == systems


# ------------------------------------------------------------------------------ looking up


def test_names_and_wildcards():
    assert len(NAMES) == len(set(NAMES))
    assert models.names('resnet5?') == ['resnet50']
    assert models.names('resnet1*_v1') == ['resnet101_v1', 'resnet152_v1']
    assert models.names('RESNET50') == models.names('nothing*') == []
    assert {models.variant(n).system for n in NAMES} == set(models.systems())
    assert len({s.name for s in models.systems()}) == len(models.systems())


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UserError, match=r"'resnt50'.*Did you mean .*resnet50\b"):
        models.variant('resnt50')
    with pytest.raises(UserError, match='resnet50'):
        models.create('resnet5')
    with pytest.raises(UserError, match='python -m cls.tools.models'):
        models.variant('§§§')


def test_unknown_fields_suggest_the_nearest():
    with pytest.raises(UserError, match=r"resnet50 .*'num_clases'.*num_classes"):
        models.create('resnet50', num_clases=3)
    with pytest.raises(UserError, match='It has .*stage_sizes'):
        models.create('resnet50', zzzzzz=3)
    with pytest.raises(UserError, match='parent'):
        models.create('resnet50', parent=None)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match='resnet50'):
        models.register(models.variant('resnet50'))


@pytest.fixture
def registering(monkeypatch):
    """Variants registered in a test are forgotten after it."""
    monkeypatch.setattr(registry, '_VARIANTS', dict(registry._VARIANTS))


def test_rows_of_a_table_become_variants(registering):
    resnet = models.variant('resnet18')
    registry.register_table(
        {
            'one': ((1, 1, 1, 1), 10, {}, 'package:other'),
            'two': ((2, 2, 2, 2), 20, {'cifar': True}, 'package:two'),
        },
        'stage_sizes params fields reference',
        system=resnet.system,
        module=resnet.module,
        fields={'num_classes': 7},
        input_size=32,
        macs=30,
    )
    one, two = models.variant('one'), models.variant('two')
    assert one.fields == {'num_classes': 7, 'stage_sizes': (1, 1, 1, 1)}
    assert two.fields == {'num_classes': 7, 'stage_sizes': (2, 2, 2, 2), 'cifar': True}
    assert (one.params, two.params, two.macs, two.input_size) == (10, 20, 30, 32)
    assert (one.reference, two.reference) == ('package:other', 'package:two')


def test_functions_compute_fields_and_attributes_of_a_row(registering):
    resnet = models.variant('resnet18')
    registry.register_table(
        {'one': (3, 10)},
        'blocks params',
        system=resnet.system,
        module=resnet.module,
        fields=lambda blocks: {'stage_sizes': (blocks,) * 4},
        input_size=32,
        macs=30,
        reference=lambda name: f'package:{name}',
    )
    assert models.variant('one').fields == {'stage_sizes': (3, 3, 3, 3)}
    assert models.variant('one').reference == 'package:one'


def test_a_row_has_a_value_for_each_column(registering):
    resnet = models.variant('resnet18')
    with pytest.raises(ValueError, match='shorter'):
        registry.register_table(
            {'one': (1,)}, 'params macs', system=resnet.system, module=resnet.module, input_size=32
        )


def leftovers(module):
    """Returns the names that a loop may have left in a module.

    These are the targets of loops at module level, and lower-case names of other values than
    modules, classes and functions.
    """
    loops = [
        node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.For)
    ]
    targets = {
        name.id for loop in loops for name in ast.walk(loop.target) if isinstance(name, ast.Name)
    }
    values = {
        name
        for name, value in vars(module).items()
        if name[0].islower() and not callable(value) and not inspect.ismodule(value)
    }
    return targets | values


@pytest.mark.parametrize('file', zoo.SYSTEMS)
def test_a_model_file_leaves_no_loop_variable_behind(file):
    assert leftovers(importlib.import_module(f'cls.models.{file}')) == set()


def test_a_loop_variable_left_behind_is_noticed(tmp_path, monkeypatch):
    (tmp_path / 'looping.py').write_text(
        'for name, make in {1: int}.items():\n    pass\nwide = 3\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert leftovers(importlib.import_module('looping')) == {'name', 'make', 'wide'}


def test_overrides_replace_the_fields_of_the_variant():
    assert models.create('resnet20_cifar').num_classes == 10
    model = models.create('resnet20_cifar', num_classes=7, widths=(1, 2, 3))
    assert (model.num_classes, model.widths, model.cifar) == (7, (1, 2, 3), True)


def test_takes_progress():
    assert models.takes_progress(models.create('amoebanet_a_n4_f50'))
    assert not models.takes_progress(models.create('resnet50'))


# --------------------------------------------------------------------------------- contract


def computed_dtypes(jaxpr):
    """Yields the output dtypes of convolutions and matrix products, nested ones included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ('conv_general_dilated', 'dot_general'):
            yield equation.outvars[0].aval.dtype
        for jaxpr in core.jaxprs_in_params(equation.params):
            yield from computed_dtypes(jaxpr)


def dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


@pytest.mark.parametrize('name', zoo.one_of_each())
def test_bfloat16_another_size_number_of_classes_and_features(name):
    model = small(name, dtype='bfloat16', num_classes=7)
    batch = images(models.variant(name).input_size + 16)
    with initialisers.shapes_only():
        traced = jax.jit(functools.partial(model.init_with_output, mutable=True)).trace(KEY, batch)
    logits, variables = traced.out_info
    features = variables.pop('intermediates')
    assert 'stage1' in features and features['pre_logits'][0].shape[0] == 2
    floating = {d for d in dtypes(variables) if jnp.issubdtype(d, jnp.floating)}
    assert floating == dtypes(variables['params']) == {jnp.dtype(jnp.float32)}
    assert set(variables) <= {'params', 'batch_stats'}
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert set(computed_dtypes(traced.jaxpr.jaxpr)) == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize('name', zoo.one_of_each())
def test_variables_and_training(name, monkeypatch):
    """All variables are drawn on the host; training takes a dropout key and updates statistics."""
    monkeypatch.setattr(model_init, '_drawn_by_flax', None)  # for plain Flax modules
    for kind in (initialisers.VarianceScaling, initialisers.Normal, initialisers.Constant):
        monkeypatch.setattr(  # the numbers cost time and are not needed
            kind, 'draw', lambda self, rng, shape: np.broadcast_to(np.float32(0), shape)
        )
    model, size = small(name), models.variant(name).input_size
    drawn = init(model, 0, size)
    variables = registry.abstract_variables(model, size)
    assert jax.tree.structure(drawn) == jax.tree.structure(variables)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), drawn) == jax.tree.map(
        lambda x: (x.shape, x.dtype), variables
    )

    def train(variables, batch):
        mutable = ['batch_stats', 'aux_logits']
        return model.apply(variables, batch, True, mutable=mutable, rngs={'dropout': KEY})

    with initialisers.shapes_only():
        logits, updated = jax.eval_shape(train, variables, images(size, 4))
    for out in (logits, *jax.tree.leaves(updated.get('aux_logits', {}))):
        assert (out.shape, out.dtype) == ((4, model.num_classes), jnp.float32)
    assert updated.get('batch_stats') == variables.get('batch_stats')


# --------------------------------------------------------------------------- initial values

TINY = {
    'resnet20_cifar': {},
    'resnet50': {'stage_sizes': (1, 1, 1, 1), 'widths': (8, 8, 16, 16)},
    'amoebanet_a_n6_f36_cifar': {'cells': 1, 'filters': 8, 'stem_filters': 24},
}


@pytest.mark.parametrize('name', TINY)
def test_initial_values(name):
    model = models.create(name, **TINY[name])
    one, again, other = (init(model, seed, 32) for seed in (1, 1, 2))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)
    kernels = collections.defaultdict(list)
    pairs = zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True)
    for (path, x), y in pairs:
        assert isinstance(x, np.ndarray)
        assert np.all(np.isfinite(x))
        kind = path[-1].key
        if kind == 'kernel':
            assert not np.any(x == y), path
            kernels[x.shape].append(x)
        else:
            expected = {'scale': 1, 'var': 1, 'bias': 0, 'mean': 0}[kind]
            np.testing.assert_array_equal(x, np.full(x.shape, expected))
    assert max(map(len, kernels.values())) > 1
    for same in kernels.values():
        assert len({x.tobytes() for x in same}) == len(same)


def test_initial_values_do_not_depend_on_the_threads_that_draw_them(monkeypatch):
    model = models.create('resnet20_cifar', stage_sizes=(1, 1, 1))
    values = []
    for least in (1, 2**62):  # elements: all variables in threads, or none
        monkeypatch.setattr(model_init, '_LARGE', least)
        values.append(init(model, 0, 32))
    for x, y in zip(*map(jax.tree.leaves, values), strict=True):
        np.testing.assert_array_equal(x, y)


def test_initial_values_have_the_deviation_of_flaxs_own():
    """model.init and init draw from the same distributions: deviations agree layer by layer."""
    model = models.create('resnet20_cifar', stage_sizes=(1, 1, 1))
    ours = init(model, 3, 32)['params']
    for path, x in jax.tree_util.tree_leaves_with_path(ours):
        names = [entry.key for entry in path]
        if names[-1] == 'kernel' and x.ndim == 4:
            std = math.sqrt(2 / (x.shape[0] * x.shape[1] * x.shape[3]))  # He, fan out
        elif names[-1] == 'kernel':
            std = 1 / math.sqrt(3 * x.shape[0])
        else:
            continue
        assert x.std() == pytest.approx(std, rel=4 / math.sqrt(x.size)), names


def test_a_layer_does_not_change_the_initial_values_of_another():
    short, long = (models.create('resnet20_cifar', stage_sizes=(n, 1, 1)) for n in (1, 2))
    one, other = (init(m, 0, 32)['params'] for m in (short, long))
    assert '1' in other['layer1']
    del other['layer1']['1']
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)

"""DARTS's supernets: their mixed operations, and the architectures derived from them."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from cls import models
from cls.config import genotype_files
from cls.config import load as configs
from cls.models.registry import genotypes
from cls.nn.cells import Genotype, Operation
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
from cls.search.supernets import darts, nasbench201
from cls.setup import set_up

RNG = np.random.default_rng(5)


def logits(*rows):
    """Alpha whose softmax has these weights."""
    return jnp.log(jnp.array(rows))


def test_derivation_by_hand():
    """Node 0 takes both; node 1 drops the edge whose best after none is the weakest."""
    net = darts.Net(nodes=2, operations=('none', 'max_pool_3x3', 'skip_connect', 'sep_conv_3x3'))
    normal = logits(
        (0.97, 0.01, 0.015, 0.005),
        (0.1, 0.2, 0.3, 0.4),
        (0.7, 0.1, 0.1, 0.1),  # none is its largest, and the next one the smallest of all
        (0.6, 0.05, 0.05, 0.3),  # none again, but the rest is enough
        (0.1, 0.5, 0.2, 0.2),
    )
    reduce = logits(
        (0.25, 0.3, 0.2, 0.25),
        (0.25, 0.2, 0.2, 0.35),
        (0.1, 0.2, 0.45, 0.25),
        (0.0, 0.55, 0.4, 0.05),
        (0.0, 0.4, 0.2, 0.4),
    )
    found = net.genotype({'normal': normal, 'reduce': reduce})
    assert found.normal.nodes == (
        (('skip_connect', 0), ('sep_conv_3x3', 1)),
        (('sep_conv_3x3', 1), ('max_pool_3x3', 2)),
    )
    assert found.reduce.nodes == (
        (('max_pool_3x3', 0), ('sep_conv_3x3', 1)),
        (('skip_connect', 0), ('max_pool_3x3', 1)),
    )
    assert found.normal.concat == found.reduce.concat == (2, 3)
    found = darts.architecture_metrics(net, {'normal': normal, 'reduce': reduce + 1e-30})
    assert (found['skips_normal'], found['skips_reduce']) == (1, 1)
    assert found['none'] == pytest.approx((0.97 + 0.1 + 0.7 + 0.6 + 0.1 + 0.6) / 10, rel=1e-5)


def test_strength_is_a_weight_not_a_logit():
    """The larger logit may be the smaller part of its edge."""
    net = darts.Net(nodes=2, operations=('skip_connect', 'sep_conv_3x3'))
    rows = jnp.array([(1.0, 0.0)] * 2 + [(5.0, 4.9), (0.0, 1.0), (1.0, 0.0)])
    assert net.genotype({'normal': rows, 'reduce': rows}).normal.nodes[1] == (
        ('sep_conv_3x3', 1),
        ('skip_connect', 2),
    )


def test_what_is_derived_trains_and_is_kept_as_json(tmp_path):
    net = darts.Net()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        alpha = {kind: rng.normal(size=(14, 8)) for kind in ('normal', 'reduce')}
        found = net.genotype(alpha)
        edges = [edge for node in found.normal.nodes for edge in node]
        assert len(edges) == 8
        assert 'none' not in {op for op, _ in edges}
        assert genotypes.structure(genotypes.plain(found), Genotype) == found
    genotype_files.save(found, tmp_path / 'found.json')
    small = {'stage_sizes': (1, 1), 'filters': 4, 'aux_head': False}
    plain = genotype_files.load(tmp_path / 'found.json')
    model = models.create('darts_v2_cifar', genotype=plain, **small)
    assert model.genotype == found
    assert models.abstract_variables(model, 8)['params']


def test_edges_are_the_sum_of_their_operations():
    """Each operation separately, with its part of the parameters; at stride 2, identities learn."""
    operations = ('none', 'max_pool_3x3', 'skip_connect', 'sep_conv_3x3', 'dil_conv_5x5')
    norm = functools.partial(BatchNorm, True, affine=False)
    mixed = darts.Mixed(operations, 4, 2, Conv, norm)
    x = jnp.asarray(RNG.normal(size=(3, 6, 6, 4)), jnp.float32)
    mix = jax.nn.softmax(jnp.asarray(RNG.normal(size=(2, 5)), jnp.float32))
    params = jax.eval_shape(mixed.init, jax.random.key(0), x, mix)['params']
    params = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), jnp.float32), params)

    def part(name, edge):
        if name == 'skip_connect':
            return params[f'skip_connect_{edge}']
        return jax.tree.map(lambda p: p[..., 4 * edge : 4 * edge + 4], params.get(name, {}))

    @jit
    def both(x):
        together, _ = mixed.apply({'params': params}, x, mix, mutable=['batch_stats'])
        alone = []
        for edge in (0, 1):
            total = 0
            for op, weight in zip(operations[1:], mix[edge, 1:], strict=True):
                layer = Operation(op, 4, 2, Conv, norm)
                y, _ = layer.apply({'params': part(op, edge)}, x, mutable=['batch_stats'])
                if op == 'max_pool_3x3':
                    y = (y - y.mean((0, 1, 2))) / jnp.sqrt(y.var((0, 1, 2)) + 1e-5)
                total += weight * y
            alone.append(total)
        return together, alone

    for found, expected in zip(*both(x), strict=True):
        assert found.shape == (3, 3, 3, 4)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_sizes_of_the_paper():
    """14 edges of 8 operations; norms of cells do not learn; two cells reduce; 1.93 M weights."""
    variables = models.abstract_variables(models.create('darts_supernet'), 32)
    params = variables['params']
    assert {kind: x.shape for kind, x in params['alpha'].items()} == {
        'normal': (14, 8),
        'reduce': (14, 8),
    }
    names = {'/'.join(str(k.key) for k in path) for path, _ in jax.tree.leaves_with_path(params)}
    assert {n for n in names if 'scale' in n or 'bias' in n} == {
        'stem.bn/scale',
        'stem.bn/bias',
        'classifier/bias',
    }
    reduces = [i for i in range(8) if 'skip_connect_0' in params[f'cells.{i}']['from_0']]
    assert reduces == [2, 5]
    weights, _ = darts.split(params)
    assert sum(x.size for x in jax.tree.leaves(weights)) == 1_930_618


def test_nasbench201_s_edges_and_names(tmp_path):
    """If all edges skip, node 3 is x + x + 2x; argmax includes none; names are the table's."""
    net = nasbench201.Net(cells=1, filters=2)
    x = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32)
    shapes = models.abstract_variables(net, 4)
    variables = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), shapes)
    skips = jnp.full((6, 5), -1e9).at[:, 1].set(0.0)
    variables['params']['alpha']['normal'] = skips
    _, seen = jit(functools.partial(net.apply, capture_intermediates=True, mutable=True))(
        variables, x
    )
    seen = seen['intermediates']
    stem = seen['stem.bn']['__call__'][0]
    for source, times in enumerate((1, 1, 2)):
        for out in seen[f'stage1.0.from_{source}']['__call__'][0]:
            np.testing.assert_allclose(out, times * stem, rtol=1e-6)
    assert net.genotype({'normal': skips}) == '111111'
    assert net.genotype({'normal': jnp.eye(6, 5)}) == '012340'
    assert net.chosen(skips).sum(0).tolist() == [0, 6, 0, 0, 0]

    table = tmp_path / 'table.csv'
    table.write_text('ops,c10_test_200ep\n111111,54.3\n333333,93.5\n')
    config = configs.load(
        'configs/search/darts.py:nasbench201',
        (
            ('search.table', str(table)),
            ('data.name', 'digits'),
            ('data.mean', '(78.0,)'),
            ('data.std', '(96.0,)'),
        ),
    )
    training = dataclasses.replace(set_up(config).supernet, model=net)
    logged = {'step': 1, 'train/alpha_entropy': 1.5, 'train/top1': 20.0}
    (tmp_path / 'metrics.jsonl').write_text(json.dumps(logged) + '\n')
    result = training.finish({'alpha': {'normal': skips}}, tmp_path)
    assert result == {'genotype': '111111', 'truth': 54.3, 'truth_best': 93.5}
    assert json.loads((tmp_path / 'genotype.json').read_text()) == '111111'
    for name in ('cell.png', 'curve.png'):
        assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')

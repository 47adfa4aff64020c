"""Genotypes: JSON to the type of a module's field, and back; a model built from a file."""

import dataclasses
import json

import pytest

from cls import models
from cls.config import genotype_files
from cls.config import load as configs
from cls.errors import UserError
from cls.models import amoebanet
from cls.models.registry import genotypes
from cls.nn import limits
from cls.nn.cells import Genotype

AMOEBANET = 'configs/amoebanet.py'


def fails(pattern, call, *args):
    with pytest.raises(UserError, match=pattern) as caught:
        call(*args)
    assert '\n' not in str(caught.value)


def write(tmp_path, data):
    path = tmp_path / 'genotype.json'
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path)


@pytest.mark.parametrize('genotype', [amoebanet.A, amoebanet.D])
def test_there_and_back(genotype, tmp_path):
    path = tmp_path / 'genotype.json'
    genotype_files.save(genotype, path)
    assert genotypes.structure(genotype_files.load(path), Genotype) == genotype


@pytest.mark.parametrize(
    ('data', 'kind', 'expected'),
    [
        (['a', 'b'], tuple[str, ...], ('a', 'b')),
        ([[1, [0, 2]], [3, []]], tuple[tuple[int, tuple[int, ...]], ...], ((1, (0, 2)), (3, ()))),
    ],
)
def test_tuples(data, kind, expected):
    assert genotypes.structure(data, kind) == expected
    assert genotypes.plain(expected) == data


@dataclasses.dataclass(frozen=True)
class Even:
    number: int

    def __post_init__(self):
        if self.number % 2:
            raise ValueError(f'{self.number} is odd')


@pytest.mark.parametrize(
    ('data', 'kind', 'pattern'),
    [
        ({'normal': {}, 'reduce': {}}, Genotype, "'nodes' is missing.*genotype.normal"),
        ({'normal': {}, 'other': {}}, Genotype, 'other'),
        ([1, '2'], tuple[int, ...], r"expected int, not '2'.*\[1\]"),
        ([1, True], tuple[int, ...], r'expected int, not True.*\[1\]'),
        (['a', 2], tuple[str, ...], r'expected str, not 2.*\[1\]'),
        ([{'number': 2}, {'number': 3}], tuple[Even, ...], r'3 is odd.*\[1\]'),
        (3, tuple[str, ...], 'genotype'),
        (3, Genotype, 'genotype'),
    ],
)
def test_errors_name_the_part_that_does_not_fit(data, kind, pattern):
    fails(pattern, genotypes.structure, data, kind)


def test_files_that_cannot_be_read(tmp_path):
    fails('No such file', genotype_files.load, tmp_path / 'missing.json')
    fails('not JSON', genotype_files.load, write(tmp_path, '{"normal":'))


def test_a_config_holds_the_content_of_the_file(tmp_path):
    path = write(tmp_path, genotypes.plain(amoebanet.D))
    config = configs.load(AMOEBANET, [('model.genotype', path)])
    (tmp_path / 'genotype.json').unlink()
    for same in (config, configs.from_json(configs.to_json(config))):
        model = configs.create_model(same, 10)
        assert model.genotype == amoebanet.D
        hash(model)
    assert configs.differences(
        configs.to_json(config), configs.to_json(configs.load(AMOEBANET))
    ).startswith('model.genotype')
    assert models.create(config.model.name).genotype == amoebanet.A


def test_a_config_refuses_a_file_that_does_not_fit(tmp_path):
    def load(*pair):
        return configs.load(AMOEBANET, [pair])

    fails('does not fit', load, 'model.genotype', write(tmp_path, {'normal': 3}))
    fails('No such file', load, 'model.genotype', str(tmp_path / 'missing.json'))
    fails(
        "'genotype'", configs.load, 'configs/resnet.py', [('model.genotype', write(tmp_path, []))]
    )


@pytest.mark.parametrize(
    ('name', 'genotype', 'pattern'),
    [
        ('metaqnn_1_cifar', {'layers': ['C(64,3,1)'] * 20_000}, 'more than 10,000 parts'),
        ('metaqnn_1_cifar', {'layers': ['C(64,3,1)'] * 1_001}, '1,001 layers'),
        ('mnasnet_a1', {'stages': [['r20000_k3_s1_e6_o16']]}, '20,000 layers or blocks'),
        ('genet_1_cifar', {'stages': ['-'.join('1' * n for n in range(1, 1100))]}, '1,100 layers'),
        (
            'hier_c64_cifar',
            {'levels': [[{'edges': ['identity']}], *[[{'edges': ['motif1'] * 3}]] * 30]},
            '31 levels',
        ),
        (
            'hier_c64_cifar',
            {
                'levels': [
                    [{'edges': ['identity'] * 45}],
                    [{'edges': ['motif1'] * 45}],
                ]
            },
            '2,025 layers',
        ),
        (
            'amoebanet_a_n6_f36_cifar',
            {
                cell: {'nodes': [[['avg_pool_3x3', 0], ['avg_pool_3x3', 1]]] * 100, 'concat': [2]}
                for cell in ('normal', 'reduce')
            },
            '4,000 layers',
        ),
    ],
)
def test_huge_networks_are_refused_before_they_are_built(name, genotype, pattern):
    fails(pattern, lambda: models.create(name, genotype=genotype))


@pytest.mark.parametrize(
    ('name', 'fields'),
    [
        ('resnet20_cifar', {'stage_sizes': (20_000, 3, 3)}),
        ('wrn40_1_cifar', {'depth': 40_000}),
        ('densenet121', {'block_sizes': (6, 12, 10**9, 16)}),
    ],
)
def test_huge_depths_are_refused(name, fields):
    fails('expected at most 1,000', lambda: models.create(name, **fields))


def test_a_huge_multiplier_of_depth_is_refused():
    model = models.create('efficientnet_b0', depth=1e5)
    fails('expected at most 1,000', models.abstract_variables, model, 224)


def test_no_variant_is_over_the_limit():
    for name in models.names():
        fields = models.variant(name).fields
        models.create(name, **fields)
        if 'genotype' in fields:
            assert 0 <= getattr(fields['genotype'], 'num_layers', 0) <= limits.max_layers()


def test_deeply_nested_text_is_not_a_genotype(tmp_path):
    (tmp_path / 'deep.json').write_text('[' * 100_000)
    with pytest.raises(UserError, match='deep.json is not JSON: nested too deeply'):
        genotype_files.load(tmp_path / 'deep.json')


def test_a_limit_of_layers_is_a_field(tmp_path):
    file = tmp_path / 'long.json'
    file.write_text(json.dumps({'layers': ['C(8,3,1)'] * 1200 + ['FC(16)']}))
    genotype = ('model.genotype', str(file))
    with pytest.raises(UserError, match=r'at most 1,000 \(config\.limits\.layers\)'):
        configs.load('configs/metaqnn.py', [genotype])
    try:
        config = configs.load('configs/metaqnn.py', [genotype, ('limits.layers', '1300')])
        assert len(config.model.genotype['layers']) == 1201
    finally:
        limits.limit_layers(1000)

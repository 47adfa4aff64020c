"""Genotypes: JSON to the type of a net's field, and back; a net built from a file."""

import dataclasses
import json

import pytest

from cls import config as configs
from cls import genotypes, models
from cls.errors import UserError
from cls.models import amoebanet
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
    genotypes.save(genotype, path)
    assert genotypes.structure(genotypes.load(path), Genotype) == genotype


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
def test_what_does_not_fit_is_named(data, kind, pattern):
    fails(pattern, genotypes.structure, data, kind)


def test_files_that_cannot_be_read(tmp_path):
    fails('No such file', genotypes.load, tmp_path / 'missing.json')
    fails('not JSON', genotypes.load, write(tmp_path, '{"normal":'))


def test_a_config_holds_the_content_of_the_file(tmp_path):
    path = write(tmp_path, genotypes.plain(amoebanet.D))
    config = configs.load(AMOEBANET, [('model.genotype', path)])
    (tmp_path / 'genotype.json').unlink()
    for kept in (config, configs.from_json(configs.to_json(config))):
        model = configs.create_model(kept, 10)
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

"""cls draw: genotypes as text and as pictures."""

import json

import pytest

from cls import models
from cls.config import genotype_files
from cls.errors import UserError
from cls.tools import draw


def test_text_has_the_operations_of_the_cell(capsys):
    """DARTS' second cell, https://github.com/quark0/darts: cnn/genotypes.py, DARTS_V2."""
    assert draw.main(['darts_v2_cifar']) == 0
    normal, reduction = capsys.readouterr().out.split('\n\n')
    assert '  4   <- sep_conv_3x3(in 0), skip_connect(in 1)' in normal
    assert '  5   <- skip_connect(in 1), dil_conv_3x3(2)' in normal
    assert reduction.startswith('reduction cell:')
    assert 'out <- 2, 3, 4, 5' in reduction


def test_a_file_is_drawn_as_its_variant(tmp_path, capsys):
    file, picture = tmp_path / 'g.json', tmp_path / 'cell.svg'
    genotype_files.save(models.create('darts_v2_cifar').genotype, file)
    draw.main(['darts_v2_cifar'])
    wanted = capsys.readouterr().out
    assert draw.main([str(file), '--model', 'darts_v2_cifar']) == 0
    assert capsys.readouterr().out == wanted
    assert draw.main([str(file), '--model', 'darts_v2_cifar', '--output', str(picture)]) == 0
    assert '<svg' in picture.read_text()
    picture.write_text('another')
    again = ['darts_v2_cifar', '--output', str(picture)]
    with pytest.raises(UserError, match='cell.svg exists.*--force'):
        draw.main(again)
    assert picture.read_text() == 'another'
    assert draw.main([*again, '--force']) == 0
    assert '<svg' in picture.read_text()


def test_mistakes_are_named(tmp_path):
    file = tmp_path / 'g.json'
    file.write_text(json.dumps({'normal': 3}))
    for arguments, said in (
        (['resnet50'], 'resnet50 has no genotype'),
        (['darts_v9'], 'no model of that name'),
        ([''], 'the genotype is empty'),
        ([str(file)], 'expected also --model'),
        ([str(file), '--model', 'darts_v2_cifar'], 'does not fit its space'),
        (['darts_v2_cifar', '--model', 'darts_v2'], '--model is for a JSON file'),
        (['darts_v2', '--output', '/nowhere/a.png'], 'there is no folder /nowhere'),
        (['darts_v2', '--output', 'a.pdf'], r'NAME\.svg or NAME\.png'),
    ):
        with pytest.raises(UserError, match=said):
            draw.main(arguments)

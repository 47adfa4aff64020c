"""The list of models: its JSON, its table, its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cls import models
from cls.errors import UserError
from cls.tools.models import BEGIN, END, main, renewed

ROOT = Path(__file__).resolve().parents[2]
KEYS = [
    'name',
    'system',
    'input_size',
    'num_classes',
    'params',
    'macs',
    'paper_top1',
    'paper_top5',
    'reference',
]


def test_json(capsys):
    assert main(['resnet?4*', '--json']) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(list(row) == KEYS for row in rows)
    of = {row['name']: row for row in rows}
    assert list(of) == models.names('resnet?4*')
    assert of['resnet34'] == {
        'name': 'resnet34',
        'system': 'ResNet',
        'input_size': 224,
        'num_classes': 1000,
        'params': 21_797_672,
        'macs': 3_663_761_408,
        'paper_top1': 75.48,
        'paper_top5': 92.54,
        'reference': 'torchvision:resnet34',
    }
    assert of['resnet44_cifar']['num_classes'] == 10
    assert of['resnet44_cifar']['paper_top5'] is of['resnet44_cifar']['reference'] is None


def test_table(capsys):
    assert main(['resnet[12][89]']) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == KEYS
    assert [line.split() for line in lines] == [
        ['resnet18', 'ResNet', '224', '1,000', '11,689,512', '1,814,073,344', '72.12', '-']
        + ['torchvision:resnet18']
    ]
    start = header.index('params')
    assert lines[0][start:].startswith('11,689,512')  # columns are aligned


def test_without_a_pattern_all_are_listed(capsys):
    assert main([]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == models.names()


def test_unknown_pattern():
    with pytest.raises(UserError, match='nothing'):
        main(['nothing*'])
    done = subprocess.run(
        [sys.executable, '-m', 'cls.tools.models', 'nothing*', '--json'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ''
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no model matches 'nothing*'")


@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        (['resnet18.'], "no model matches 'resnet18.'. Did you mean resnet18"),
        (['--write', 'page.md', 'resnet*'], 'expected no other argument'),
        (['metaqnn_0_mnist', '--recipes', '--write', 'page.md'], 'expected no other argument'),
    ],
)
def test_mistakes_are_named(flags, said):
    with pytest.raises(UserError, match=said):
        main(flags)


def test_the_table_of_the_page_is_up_to_date():
    text = (ROOT / 'cls/models/README.md').read_text()
    assert renewed(text) == text, 'run python -m cls.tools.models --write cls/models/README.md'
    for system in models.systems():
        assert f'| [{system.name}](' in text


def test_writing_the_table_changes_nothing_else(tmp_path):
    file = tmp_path / 'page.md'
    file.write_text(f'before\n{BEGIN}\nold\n{END}\nafter\n')
    assert main(['--write', str(file)]) == 0
    text = file.read_text()
    assert text.startswith(f'before\n{BEGIN}\n| system |')
    assert text.endswith(f'\n{END}\nafter\n')
    assert 'old' not in text
    file.write_text('no marks')
    with pytest.raises(UserError, match='expected the marks'):
        main(['--write', str(file)])
    assert file.read_text() == 'no marks'


def test_a_line_says_that_counting_takes_long(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr('cls.tools.models.MANY', 1)
    assert main(['resnet?4*']) == 0
    assert capsys.readouterr().err == ''  # their counts are stored
    monkeypatch.setattr('cls.tools.counts.FILE', tmp_path / 'counts.json')
    assert main(['resnet?4*']) == 0
    assert capsys.readouterr().err == 'counting 6 models takes a minute or more\n'


def test_recipes_are_listed(capsys):
    assert main(['resnet56_cifar', '--recipes']) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ['recipe', 'network']
    assert first.split()[:3] == ['resnet:cifar10', 'resnet56_cifar', 'tfds:cifar10']
    assert second.split()[0] == 'resnet:cifar100'
    with pytest.raises(UserError, match='no recipe trains a model'):
        main(['resnet152', '--recipes'])

"""The stored counts of variants: their validity, broken files, and writing."""

import json
import re
import shutil

import pytest

from cls import models
from cls.errors import UserError
from cls.models.registry.complexity import Complexity
from cls.tools import counts
from cls.tools.models import main

VGG = 'cls.models.vgg'
WRONG = Complexity(1, 2)  # of no network


@pytest.fixture
def copy(tmp_path):
    """A folder with a copy of the code that the counts depend on."""
    for package in ('models', 'nn'):
        shutil.copytree(counts.ROOT / 'cls' / package, tmp_path / 'cls' / package)
    return tmp_path


@pytest.fixture(autouse=True)
def tensors(tmp_path, monkeypatch):
    """Recounting writes the shapes of tensors too."""
    monkeypatch.setattr('cls.weights.index.FOLDER', tmp_path / 'tensors')


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """The counts of the tool, with the cost WRONG for vgg11 and without vgg13."""
    file = tmp_path / 'counts.json'
    file.write_text(counts.text({'vgg11': WRONG}))
    monkeypatch.setattr('cls.tools.counts.FILE', file)
    return file


def edit(root, file, change):
    path = root / 'cls' / file
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text


def listed(capsys, *names):
    """Returns (parameters, multiply-adds) of variants, as printed by the tool."""
    shown = []
    for name in names:
        assert main([name, '--json']) == 0
        (row,) = json.loads(capsys.readouterr().out)
        shown.append(Complexity(row['params'], row['macs']))
    return shown


def registered(name):
    variant = models.variant(name)
    return Complexity(variant.params, variant.macs)


# ------------------------------------------------------------------------------ the shipped file


def test_the_file_is_that_of_this_code():
    """Every variant is in the file, with its registered cost."""
    stored = counts.read(counts.FILE)
    assert stored == {name: registered(name) for name in models.names()}, (
        'run python -m cls.tools.models --recount'
    )


def test_writing_the_same_counts_gives_the_same_text():
    stored = counts.read(counts.FILE)
    assert counts.text(stored) == counts.FILE.read_text()
    assert counts.text(dict(reversed(stored.items()))) == counts.FILE.read_text()


# ------------------------------------------------------------------------------------- the key


def one_more_constant(text):
    return f'{text}\n_MORE = 1\n'


def another_constant(text):
    return text.replace('4096', '4097', 1)


def another_docstring(text):
    return text.replace('"""', '"""Another opening. ', 1)


def other_docstrings(text):
    return re.sub(r'"""(?=\w)', '"""Another opening. ', text)


def another_comment(text):
    return f'{text}# An end.\n'


def another_layout(text):
    return text.replace('4096', '(\n4096\n)', 1)


@pytest.mark.parametrize(
    ('file', 'change'),
    [
        ('models/vgg.py', another_constant),
        ('models/vgg.py', one_more_constant),
        ('nn/conv.py', one_more_constant),  # imported by vgg.py
        ('nn/init.py', one_more_constant),  # imported by both
        ('models/registry/complexity.py', one_more_constant),  # the counter
    ],
)
def test_code_changes_the_key(file, change, copy):
    before = counts.key(VGG, copy)
    assert before == counts.key(VGG)
    edit(copy, file, change)
    after = counts.key(VGG, copy)
    assert after and after != before
    assert 'vgg11' in counts.read(counts.FILE)
    assert 'vgg11' not in counts.read(counts.FILE, copy)


@pytest.mark.parametrize(
    ('file', 'change'),
    [
        ('models/vgg.py', another_docstring),
        ('models/vgg.py', other_docstrings),
        ('models/vgg.py', another_comment),
        ('models/vgg.py', another_layout),
        ('nn/conv.py', another_docstring),
        ('nn/conv.py', other_docstrings),
        ('nn/inverted.py', one_more_constant),  # of other systems
        ('models/resnet.py', one_more_constant),
    ],
)
def test_comments_docstrings_layout_and_other_systems_do_not(file, change, copy):
    before = counts.key(VGG, copy)
    edit(copy, file, change)
    assert counts.key(VGG, copy) == before
    assert 'vgg11' in counts.read(counts.FILE, copy)


def test_a_system_without_its_source_has_no_key(copy):
    (copy / 'cls/models/vgg.py').unlink()
    assert counts.key(VGG, copy) == ''
    assert 'vgg11' not in counts.read(counts.FILE, copy)


# ------------------------------------------------------------------------------ the tool


def test_a_valid_count_is_taken_and_a_missing_one_counted(stored, capsys):
    assert listed(capsys, 'vgg11', 'vgg13') == [WRONG, registered('vgg13')]


def test_a_stale_count_is_counted_again(stored, capsys):
    stored.write_text(stored.read_text().replace(counts.key(VGG), '0123456789abcdef'))
    before = sorted(stored.parent.iterdir()), stored.read_bytes()
    assert listed(capsys, 'vgg11') == [registered('vgg11')]
    assert (sorted(stored.parent.iterdir()), stored.read_bytes()) == before  # nothing is written


@pytest.mark.parametrize(
    'content',
    [
        None,
        '',
        '{',
        '[' * 100_000,
        '[]',
        '{"cls.models.vgg": []}',
        '{"cls.models.vgg": {"key": "KEY"}}',
        '{"cls.models.vgg": {"key": "KEY", "counts": [1]}}',
        '{"cls.models.vgg": {"key": "KEY", "counts": {"vgg11": 1}}}',
        '{"cls.models.vgg": {"key": "KEY", "counts": {"vgg11": [1]}}}',
        '{"cls.models.vgg": {"key": "KEY", "counts": {"vgg11": [1, "2"]}}}',
        '{"../../vgg": {"key": "KEY", "counts": {"vgg11": [1, 2]}}}',
        '\xff',
    ],
)
def test_a_broken_or_missing_file_is_one_without_counts(content, tmp_path):
    file = tmp_path / 'counts.json'
    if content is not None:
        file.write_bytes(content.replace('KEY', counts.key(VGG)).encode('latin-1'))
    assert counts.read(file) == {}


def test_several_processes_count_as_one():
    names = models.names('vgg*')
    assert len(names) >= 8  # enough for several processes
    assert counts.count(names) == {name: registered(name) for name in names}


def test_all_variants_are_counted_and_written(stored, monkeypatch):
    """Two variants stand for all; they are counted in this process."""
    names = ['vgg11', 'resnet20_cifar']
    monkeypatch.setattr('cls.models.names', lambda pattern='*': names)
    assert main(['--recount']) == 0
    assert counts.read(stored) == {name: registered(name) for name in names}
    content = stored.read_bytes()
    stored.unlink()
    assert main(['--recount']) == 0
    assert stored.read_bytes() == content


def test_where_nothing_can_be_written_recounting_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr('cls.models.names', lambda pattern='*': ['vgg11'])
    (tmp_path / 'file').touch()
    monkeypatch.setattr('cls.tools.counts.FILE', tmp_path / 'file' / 'counts.json')
    with pytest.raises(UserError, match='cannot be written'):
        main(['--recount'])

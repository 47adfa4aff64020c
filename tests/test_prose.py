"""The words of docstrings, comments and Markdown: `python tests/prose.py` counts them."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import prose
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def counts():
    return prose.count(prose.files(ROOT), ROOT)


def test_no_folder_uses_a_counted_word_too_often(counts):
    excesses = {folder: prose.excesses(counter) for folder, counter in counts.items()}
    assert not {folder: lines for folder, lines in excesses.items() if lines}


def test_nor_do_all_folders_together(counts):
    assert not prose.excesses(sum(counts.values(), Counter()))


def counted(path):
    return [(line, word) for line, word, _ in prose.occurrences(prose.passages(path))]


@pytest.mark.parametrize(
    ('name', 'text', 'expected'),
    [
        ('a.py', '"""What it is.\n\nThe nets."""\n', [(1, 'what'), (3, 'nets')]),
        ('a.py', 'def f():\n    """It is told."""\n', [(2, 'told')]),
        ('a.py', '"""A.\n\nWhat is new: it.\nWhat is new."""\n', [(4, 'what')]),
        ('a.py', "x = 1  # it lies\ny = 'it lies'\n", [(1, 'lies')]),
        ('a.py', '# there are so\n# many of them\n', [(1, 'so many')]),
        ('a.py', '"""The field `lies`, "which" and \'told\'; the runs\' net\'s."""\n', []),
        ('a.py', '"""Besides, PReLU-nets, slim/nets/vgg and somewhat."""\n', []),
        ('a.md', 'a\n\n```\nwhich\n```\n\n> told\n\n[b](nets.md) beside\n', [(9, 'beside')]),
        ('a.sh', 'which python\n# computed anew\n', [(2, 'anew')]),
        ('a.ipynb', '{"cells": [{"cell_type": "markdown", "source": ["it\\n", "bears"]}]}',
         [(2, 'bears')]),
    ],
)  # fmt: skip
def test_words_are_counted_in_prose_only(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_text(text)
    assert counted(path) == expected


def test_a_text_of_ten_thousand_words_may_say_a_limited_word_a_few_times():
    assert not prose.excesses(Counter({'': 10_000, 'what': 10, 'which': 12}))
    assert prose.excesses(Counter({'': 10_000, 'what': 11, 'told': 1})) == [
        'what: 11, at most 10 in 10,000 words',
        'told: 1, at most 0 in 10,000 words',
    ]


def test_the_script_prints_folders_and_lines():
    result = subprocess.run(
        [sys.executable, 'tests/prose.py', '--lines', 'tests/prose.py', 'findings'],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.search(r'(?m)^ +words +what +which', result.stdout)
    assert re.search(r'(?m)^findings +[\d,]+ ', result.stdout)

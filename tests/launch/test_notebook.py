"""The notebooks of launch/: stored without outputs, and run from top to bottom."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'launch'
NOTEBOOKS = sorted(file.name for file in FOLDER.glob('*.ipynb'))


def code_cells(name='colab_tpu.ipynb'):
    return [cell for cell in nbformat.read(FOLDER / name, 4).cells if cell.cell_type == 'code']


class Session:
    """A kernel in a folder, with scripted answers to its questions and its outputs."""

    def __init__(self, folder, answer=None):
        self.questions, self.text, self.pictures = [], '', 0
        self._answer = answer
        self._manager, self._client = start_new_kernel(kernel_name='python3', cwd=str(folder))

    def close(self):
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def run(self, source):
        """Returns the text that a cell prints. Raises AssertionError if the cell fails."""
        self.text, self.pictures = '', 0
        reply = self._client.execute_interactive(
            source, timeout=600, stdin_hook=self._asked, output_hook=self._printed
        )['content']
        assert reply['status'] == 'ok', f'{reply["ename"]}: {reply["evalue"]}\n{self.text}'
        return self.text

    def _asked(self, message):
        assert self._answer is not None, f'asked: {message["content"]["prompt"]}'
        self.questions.append(message['content']['prompt'])
        self._client.input(self._answer)

    def _printed(self, message):
        content = message['content']
        self.text += content.get('text', '') if message['msg_type'] == 'stream' else ''
        self.pictures += 'image/png' in content.get('data', {})


@pytest.fixture
def session():
    sessions = []

    def start(*args):
        sessions.append(Session(*args))
        return sessions[-1]

    yield start
    for each in sessions:
        each.close()


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_it_is_kept_as_it_was_written(name):
    notebook = nbformat.read(FOLDER / name, 4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(name))
    text = (FOLDER / name).read_text()
    assert 'tensorflow' not in text
    # One line of text for each line, for readable diffs.
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + '\n'


def committed(folder):
    """Makes a repository of a folder, and returns its path."""
    for command in (
        ['init', '--quiet'],
        ['add', '--all'],
        ['-c', 'user.name=a', '-c', 'user.email=a@b.c', 'commit', '--quiet', '-m', 'All'],
    ):
        subprocess.run(['git', *command], cwd=folder, check=True)
    return str(folder)


@pytest.fixture
def first_cell():
    return next(cell.source for cell in code_cells())


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_all_begin_with_the_same_cells(name):
    first = [cell.source for cell in code_cells()[:3]]
    assert [cell.source for cell in code_cells(name)[:3]] == first


def test_outside_of_a_checkout_it_asks_once_where_to_clone_from(tmp_path, session, first_cell):
    (tmp_path / 'repository/cls').mkdir(parents=True)
    shutil.copy(ROOT / 'cls/main.py', tmp_path / 'repository/cls')
    (tmp_path / 'here').mkdir()
    opened = session(tmp_path / 'here', f' {committed(tmp_path / "repository")} ')
    assert opened.run(first_cell) == f'using {tmp_path}/here/checkout\n'
    again = session(tmp_path / 'here')  # after the restart that Colab asks for
    assert again.run(first_cell) == f'using {tmp_path}/here/checkout\n'
    assert len(opened.questions) == 1


def test_in_a_checkout_it_asks_nothing(session, first_cell):
    assert session(ROOT / 'launch').run(first_cell) == f'using {ROOT}\n'


def test_a_wrong_address_ends_with_the_message_of_git(tmp_path, session, first_cell):
    with pytest.raises(AssertionError, match=re.escape("'none' gave no clone of cls. fatal:")):
        session(tmp_path, 'none').run(first_cell)


# Notebook -> replacements that shorten it, numbers of pictures of cells, parts of their output.
RUNS = {
    'colab_tpu.ipynb': (
        {"'40 epochs'": "'2 epochs'"},
        {'curves_plot': 1, 'predictions_plot': 1},
        {'train_run': 'test top-1', 'predictions_plot': 'of 355 test images'},
    ),
    'finetune.ipynb': (
        {"'10 epochs'": "'1 epochs'"},
        {'predict': 1},
        {'finetune': 'validation top-1', 'export': 'notebook.stablehlo', 'predict': '2 classes'},
    ),
    'search.ipynb': (
        {"'10 epochs'": "'1 epochs'", 'evaluations = 12': 'evaluations = 3'},
        {'look': 2, 'curves': 2},
        {'look': 'genotype', 'train': 'test top-1'},
    ),
}


@pytest.mark.sweep
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_run_all_outside_of_a_checkout(name, tmp_path, session):
    shorter, shown, texts = RUNS[name]
    names = ('.git', '.venv', '__pycache__', '.pytest_cache', '.ruff_cache', 'runs')
    shutil.copytree(ROOT, tmp_path / 'repository', ignore=shutil.ignore_patterns(*names))
    (tmp_path / 'here').mkdir()
    opened = session(tmp_path / 'here', committed(tmp_path / 'repository'))
    text, pictures = {}, {}
    for cell in code_cells(name):
        source = cell.source
        for long, short in shorter.items():
            source = source.replace(long, short)
        text[cell.id] = opened.run(source)
        pictures[cell.id] = opened.pictures
    assert len(opened.questions) == 1
    assert 'Cpu' in text['devices'] or 'CPU' in text['devices']
    assert {cell: count for cell, count in pictures.items() if count} == shown
    for cell, part in texts.items():
        assert part in text[cell], text[cell]
    assert not [line for each in text.values() for line in each.splitlines() if 'error:' in line]


def test_every_notebook_is_run():
    assert set(RUNS) == set(NOTEBOOKS)

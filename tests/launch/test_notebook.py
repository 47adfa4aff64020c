"""launch/colab_tpu.ipynb: kept without outputs, and runs from top to bottom."""

import json
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / 'launch/colab_tpu.ipynb'


def test_it_is_kept_as_it_was_written():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert 'tensorflow' not in NOTEBOOK.read_text()
    # One line of text for each line, so that a diff can be read.
    text = NOTEBOOK.read_text()
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + '\n'


@pytest.mark.sweep
def test_it_runs(tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("'40 epochs'", "'2 epochs'")
        cell.source = cell.source.replace("'runs/notebook'", repr(str(tmp_path / 'run')))
    where = {'metadata': {'path': str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name='python3', resources=where).execute()
    text = {
        cell.id: ''.join(output.get('text', '') for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == 'code'
    }
    pictures = {
        cell.id
        for cell in notebook.cells
        for output in cell.get('outputs', [])
        if 'image/png' in output.get('data', {})
    }
    assert 'Cpu' in text['devices'] or 'CPU' in text['devices']
    assert 'test top-1' in text['train_run']
    assert 'of 355 test images' in text['predictions_plot']
    assert pictures == {'curves_plot', 'predictions_plot'}
    assert json.loads((tmp_path / 'run/result.json').read_text())['step'] > 0

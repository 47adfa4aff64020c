"""The Python code in the README and the pages on weights and inference runs as printed."""

import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from cls import models
from cls.weights.convert import shapes

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'tests/inference'))

from tiny_run import encoded, pixels, write_run  # noqa: E402


def python_of(page):
    """Returns the Python blocks of a page as one program."""
    blocks = re.findall(r'^```python\n(.*?)^```$', (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    return '\n'.join(blocks)


def run(program, **names):
    exec(compile(program, 'page', 'exec'), names)
    return names


def prepare(folder, monkeypatch):
    """Makes a run and images of the names on the pages, and changes to their folder."""
    (folder / 'runs').mkdir()
    write_run(folder / 'runs' / 'birds')
    (folder / 'bird.jpg').write_bytes(encoded(pixels(0, 60, 70), 'JPEG'))
    (folder / 'more.png').write_bytes(encoded(pixels(1, 70, 60)))
    monkeypatch.chdir(folder)


def test_the_readme(tmp_path, monkeypatch, capsys):
    prepare(tmp_path, monkeypatch)
    program = python_of('README.md')
    names = run(program)
    assert names['logits'].shape == (1, 4)
    assert names['logits'].dtype == jnp.float32
    assert len(names['best']) == 3
    assert names['vectors'].shape == (2, 64)
    assert (tmp_path / 'map.png').is_file()
    printed = capsys.readouterr().out
    assert "'resnet18', 'resnet34'" in printed
    assert 'momentum' in printed
    statements = [line for line in program.splitlines() if line and 'import' not in line]
    assert len(statements) <= 10


def test_the_page_on_weights(tmp_path, monkeypatch):
    """With a smaller model than on the page."""
    monkeypatch.chdir(tmp_path)
    small = 'resnet20_cifar'
    sizes = shapes(models.create(small), models.variant(small))
    save_file(
        {name: np.full(size, 0.01, 'f4') for name, size in sizes.items()}, f'{small}.safetensors'
    )
    program = python_of('cls/weights/README.md').replace(
        'resnet50-0676ba61.pth', f'{small}.safetensors'
    )
    names = run(program.replace('resnet50', small), images=jnp.ones((2, 32, 32, 3)))
    assert names['logits'].shape == (2, 10)
    assert bool(jnp.isfinite(names['logits']).all())


def test_the_page_of_examples(tmp_path, monkeypatch, capsys):
    """With a run and photographs of the names on the page, and a shorter training."""
    prepare(tmp_path, monkeypatch)
    program = python_of('cls/inference/README.md')
    assert "'duration': '2 epochs'" in program
    names = run(program.replace('2 epochs', '2 steps'))
    assert names['pixels'].shape == (2, 32, 32, 3)
    np.testing.assert_allclose(names['inputs'], names['same'], atol=1e-6)
    assert names['vectors'].shape == (2, 64)
    assert (tmp_path / 'gradcam.png').is_file()
    assert names['model'].num_classes == 5
    printed = capsys.readouterr().out
    assert 'second it cannot be read' in printed
    assert 'tench' in printed

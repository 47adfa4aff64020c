"""The Python code in the README and the page on weights runs as printed."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from cls import models
from cls.weights.convert import shapes

ROOT = Path(__file__).parents[1]


def python_of(page):
    """Returns the Python blocks of a page as one program."""
    blocks = re.findall(r'^```python\n(.*?)^```$', (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    return '\n'.join(blocks)


def run(program, **names):
    exec(compile(program, 'page', 'exec'), names)
    return names


def test_the_readme(capsys):
    program = python_of('README.md')
    names = run(program)
    assert names['logits'].shape == (2, 10)
    assert names['logits'].dtype == jnp.float32
    assert {'stem', 'stage1', 'pre_logits'} <= names['state']['intermediates'].keys()
    printed = capsys.readouterr().out
    assert "'resnet20_cifar', 'resnet32_cifar'" in printed
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
    program = python_of('cls/weights/README.md').replace('resnet50.pth', f'{small}.safetensors')
    names = run(program.replace('resnet50', small), images=jnp.ones((2, 32, 32, 3)))
    assert names['logits'].shape == (2, 10)
    assert bool(jnp.isfinite(names['logits']).all())

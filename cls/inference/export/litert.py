"""LiteRT files (.tflite), by litert-converter in an interpreter of its own.

litert-converter cannot be installed with the requirements of cls. It converts StableHLO text, here
of a fixed number of images, and the package ai-edge-litert runs the result:

    python3.11 -m venv litert && litert/bin/pip install litert-converter ai-edge-litert
"""

import subprocess
from pathlib import Path

import jax
import numpy as np
from jax import export

from cls.errors import UserError
from cls.inference.export.source import Source, check
from cls.inference.export.stablehlo import run
from cls.inference.export.trace import traced

PACKAGES = ('litert_converter', 'ai_edge_litert')
_PROGRAM = Path(__file__).with_name('litert_program.py')


def check_interpreter(python: str) -> None:
    """Raises UserError if an interpreter does not exist or has not the packages."""
    expected = 'expected --python PYTHON, an interpreter with litert-converter and ai-edge-litert'
    if not python:
        raise UserError(f'--format litert needs another interpreter: {expected}.')
    code = f'import importlib.util as u; print(*[n for n in {PACKAGES} if u.find_spec(n) is None])'
    try:
        done = subprocess.run([python, '-c', code], capture_output=True, text=True, check=False)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f'--python {python} cannot be started ({why}): {expected}.') from error
    if done.returncode or done.stdout.strip():
        missing = ' and '.join(done.stdout.split()) or 'a package'
        raise UserError(f'--python {python} has not {missing}: {expected}.')


def write(source: Source, file: Path, python: str, batch: int, folder: Path) -> float:
    """Writes a file for `batch` images at a time, and returns its difference to the model.

    Raises UserError if the converter refuses the model, or the difference is too large.

    Args:
      source: the model.
      file: the file to write.
      python: the interpreter that has the packages.
      batch: the number of images.
      folder: for intermediate files.
    """
    spec = source.spec(batch, source.size, source.size)
    graph = traced(source.compute, spec)
    made = export.export(jax.jit(graph.run), platforms=('cpu',))(spec)
    (folder / 'model.mlir').write_text(made.mlir_module())
    images = source.samples(batch)
    np.savez(folder / 'images.npz', images=images)
    arguments = [folder / 'model.mlir', file, folder / 'images.npz', folder / 'outputs.npz']
    command = [python, str(_PROGRAM), *map(str, arguments), source.output_name]
    run(command, {}, 'litert-converter refuses the model')
    with np.load(folder / 'outputs.npz') as outputs:
        actual = outputs['outputs']
    return check(source, images, actual, file.name)

"""The export of a model to a file that is checked before it gets its name."""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cls.errors import UserError, require
from cls.inference.export import litert, onnx_file, quantize, stablehlo
from cls.inference.export.source import Source
from cls.storage import paths

FORMATS = ('stablehlo', 'onnx', 'litert')


@dataclasses.dataclass(frozen=True)
class Artefact:
    """An export that was written.

    Attributes:
      files: its files; the first is the model.
      difference: the largest difference of outputs to the model's, see `source.difference`; NaN for
        a quantized one.
      free: the dimensions of the images that are free.
    """

    files: tuple[Path, ...]
    difference: float
    free: tuple[str, ...]


@contextlib.contextmanager
def _unfinished(output: Path) -> Iterator[Path]:
    """A new folder next to a file; what is in it when the context ends gets its place there."""
    folder = Path(tempfile.mkdtemp(prefix=f'.{output.name}.', dir=output.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_output(output: Path, force: bool = False) -> None:
    """Raises UserError for a file that cannot be written, or that exists, unless `force`."""
    if paths.is_remote(output):
        raise UserError(
            f'--output is {output}: expected a file on this machine, to copy afterwards.'
        )
    paths.check_new(output, force)
    for file in _beside(output):
        paths.check_new(file, force)


def _beside(output: Path) -> list[Path]:
    """Returns the files that an export may have next to the model."""
    return [output.with_name(f'{output.name}.{end}') for end in ('json', 'npz', 'data')]


def to_stablehlo(
    source: Source, output: Path, *, external: bool | None = None, any_size: bool = True
) -> Artefact:
    """Writes FILE, FILE.json with its description, and perhaps FILE.npz with the weights.

    Args:
      source: the model.
      output: the file.
      external: whether the weights are in FILE.npz; None: if they have more than 1 GB.
      any_size: whether height and width shall be free too, where the network allows it.

    Raises UserError if JAX cannot export the model, or the file does not compute the same.
    """
    with _unfinished(output) as folder:
        try:
            made = stablehlo.program(source, external, any_size)
        except UserError:
            raise
        except Exception as error:
            reason = ' '.join(str(error).split())[:200]
            raise UserError(f'JAX cannot export this model: {reason}') from error
        files = stablehlo.write(made, folder / output.name)
        result = stablehlo.compare(source, made, files, folder)
        description = source.metadata(free=list(made.free), platforms=list(stablehlo.PLATFORMS))
        files.append(_described(folder / output.name, description))
        return Artefact(_moved(files, output), result, made.free)


def to_onnx(source: Source, output: Path) -> Artefact:
    """Writes FILE with its description inside, and FILE.data with weights of more than 1 GB.

    Raises UserError if a package or an operator is missing, or the file does not compute the same.
    """
    with _unfinished(output) as folder:
        files = onnx_file.write(source, folder / output.name)
        result = onnx_file.compare(source, files[0])
        return Artefact(_moved(files, output), result, ('N',))


def to_litert(source: Source, output: Path, python: str, batch: int = 1) -> Artefact:
    """Writes FILE, and FILE.json with its description.

    Args:
      source: the model.
      output: the file.
      python: an interpreter with litert-converter and ai-edge-litert.
      batch: the number of images that the file takes.

    Raises UserError if the converter refuses the model, or the file does not compute the same.
    """
    litert.check_interpreter(python)
    with _unfinished(output) as folder:
        file = folder / output.name
        result = litert.write(source, file, python, batch, folder)
        files = [file, _described(file, source.metadata(images=batch, signature='serving_default'))]
        return Artefact(_moved(files, output), result, ())


def to_int8(
    source: Source,
    output: Path,
    batches: Callable[[], Iterator[np.ndarray]],
    score: Callable[[str, Callable[[np.ndarray], np.ndarray]], None],
) -> Artefact:
    """Writes a quantized ONNX file.

    Args:
      source: the model.
      output: the file.
      batches: returns the images to calibrate with, as the file takes them.
      score: called with 'float32' and 'int8', and with the function from images to outputs of each,
        before anything is written.

    Raises UserError as `to_onnx`, or if onnxruntime cannot quantize the model.
    """
    require('onnxruntime', 'onnx')
    with _unfinished(output) as folder:
        whole = onnx_file.write(source, folder / 'whole.onnx')
        onnx_file.compare(source, whole[0])
        file = folder / output.name
        quantize.quantize(whole[0], file, batches())
        for name, each in (('float32', whole[0]), ('int8', file)):
            session = onnx_file.session(each)
            score(name, lambda images, opened=session: onnx_file.outputs(opened, images))
        onnx_file.describe(file, source.metadata(opset=onnx_file.OPSET, quantized='int8'))
        return Artefact(_moved([file], output), float('nan'), ('N',))


def _described(file: Path, description: dict) -> Path:
    """Writes FILE.json; returns its path."""
    path = file.with_name(f'{file.name}.json')
    path.write_text(json.dumps(description, indent=1) + '\n')
    return path


def _moved(files: Sequence[Path], output: Path) -> tuple[Path, ...]:
    """Moves finished files to the folder of the output, the model last."""
    targets = [output.parent / file.name for file in files]
    for file, target in reversed(list(zip(files, targets, strict=True))):
        os.replace(file, target)
    for file in set(_beside(output)).difference(targets):
        file.unlink(missing_ok=True)  # of the export that this one replaces
    return tuple(targets)

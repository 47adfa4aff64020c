"""StableHLO through `jax.export`: one file for CPUs, GPUs and TPUs, that JAX alone can load.

With the weights inside:

    from jax import export
    model = export.deserialize(bytearray(open('model.stablehlo', 'rb').read()))
    logits = model.call(images)

and with the weights in a file of their own:

    logits = model.call(dict(numpy.load('model.stablehlo.npz')), images)
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from cls.errors import UserError
from cls.inference.export.graph import Graph
from cls.inference.export.source import INSIDE, Source, check
from cls.inference.export.trace import traced

PLATFORMS = ('cpu', 'cuda', 'tpu')

# Run by a process that has imported nothing of cls.
_PROGRAM = """
import sys
import numpy as np
from jax import export

file, weights, images, out = sys.argv[1:]
model = export.deserialize(bytearray(open(file, 'rb').read()))
constants = [dict(np.load(weights))] if weights else []
images = np.load(images)
np.savez(out, **{name: np.asarray(model.call(*constants, images[name])) for name in images.files})
"""


@dataclasses.dataclass(frozen=True)
class Program:
    """A model as StableHLO.

    Attributes:
      exported: the result of JAX.
      weights: its first argument, by name; {} if they are inside.
      free: names of the free dimensions of the images.
    """

    exported: export.Exported
    weights: dict[str, np.ndarray]
    free: tuple[str, ...]


def program(source: Source, external: bool | None = None, any_size: bool = True) -> Program:
    """Returns the program of a model for any number of images.

    Args:
      source: the model.
      external: whether the weights are an argument; None: if they have more than `INSIDE` bytes.
      any_size: whether height and width shall be free too, where the network allows it.
    """
    if any_size:
        least = [f'{name} >= {source.size}' for name in 'HW']
        # JAX has many errors for a size that has to be known.
        with contextlib.suppress(Exception):
            spec = source.spec(*export.symbolic_shape('N, H, W', constraints=least))
            return program_of(traced(source.compute, spec), spec, external)
    spec = source.spec_of_any_number()
    return program_of(traced(source.compute, spec), spec, external)


def program_of(graph: Graph, spec: jax.ShapeDtypeStruct, external: bool | None = None) -> Program:
    """Returns the program of a graph; arguments as for `program`."""
    free = tuple(str(n) for n in spec.shape if not isinstance(n, int))
    constants = graph.constants()
    if external is None:
        external = sum(x.nbytes for x in constants) > INSIDE
    if not external:
        return Program(export.export(jax.jit(graph.run), platforms=PLATFORMS)(spec), {}, free)
    weights = {f'weight_{i:05}': x for i, x in enumerate(constants)}
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}

    def function(weights: dict[str, Any], images: Any) -> Any:
        return graph.run(images, [weights[name] for name in shapes])

    return Program(
        export.export(jax.jit(function), platforms=PLATFORMS)(shapes, spec), weights, free
    )


def write(made: Program, file: Path) -> list[Path]:
    """Writes a program, and FILE.npz with weights that are not inside; returns the files."""
    file.write_bytes(made.exported.serialize())
    if not made.weights:
        return [file]
    weights = file.with_name(f'{file.name}.npz')
    np.savez(weights, **made.weights)  # pyright: ignore[reportArgumentType]
    return [file, weights]


def compare(source: Source, made: Program, files: list[Path], folder: Path) -> float:
    """Returns the difference between the files and the model, computed by a process of its own.

    Raises UserError if it is too large, or the process fails.

    Args:
      source: the model.
      made: its program.
      files: the files that were written.
      folder: for the images and outputs.
    """
    cases: dict[str, Any] = {'first': source.samples(3)}
    if 'H' in made.free:
        cases['larger'] = source.samples(2, source.size + 32)
    np.savez(folder / 'images.npz', **cases)
    weights = str(files[1]) if len(files) > 1 else ''
    arguments = [str(files[0]), weights, str(folder / 'images.npz'), str(folder / 'outputs.npz')]
    # -I: without the paths of this process. On the CPU, which is free.
    command = [sys.executable, '-I', '-c', _PROGRAM, *arguments]
    environment = {'JAX_PLATFORMS': 'cpu'}
    run(command, environment, f'{files[0].name} cannot be run by JAX')
    with np.load(folder / 'outputs.npz') as outputs:
        return max(
            check(source, images, outputs[name], files[0].name) for name, images in cases.items()
        )


def run(command: list[str], environment: dict[str, str], failure: str) -> str:
    """Returns the output of a program. Raises UserError, with its last line, if it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f'{failure}: {lines[-1].strip()[:300] if lines else "no message"}')
    return done.stdout

"""The golden files: one npz for each system, two entries for each of its reference nets."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Row:
    """What a reference says of itself under keyed weights.

    `tensors` maps all names of the state dict to shapes, `params` counts what is trained, `gain`
    is keyed.make's, `logits` are (count, classes) float32 for keyed.images(count, size, channels)
    as the reference computes them in float64, `made_with` names the package's version. `fields`
    are those of the module in which the net differs from the registered variant, to be small;
    `tensors` and `logits` are then the small net's, `params` the registered one's.
    """

    tensors: dict[str, tuple[int, ...]]
    params: int
    gain: float
    count: int
    size: int
    channels: int
    made_with: str
    logits: np.ndarray
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


def read(system: str) -> dict[str, Row]:
    """Returns 'package:constructor' -> row of a system's file; nothing if there is no file."""
    path = FOLDER / f'{system}.npz'
    if not path.exists():
        return {}
    with np.load(path) as file:
        names = [key.removeprefix('spec/') for key in file.files if key.startswith('spec/')]
        return {name: _row(file[f'spec/{name}'], file[f'logits/{name}']) for name in names}


def read_all() -> dict[str, Row]:
    """Returns 'package:constructor' -> row of all files."""
    systems = sorted(path.stem for path in FOLDER.glob('*.npz'))
    return {name: row for system in systems for name, row in read(system).items()}


def write(system: str, rows: dict[str, Row]) -> Path:
    """Writes a system's file anew and returns its path."""
    arrays = {}
    for name, row in sorted(rows.items()):
        spec = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
        logits = spec.pop('logits')
        text = json.dumps(spec, separators=(',', ':'))
        arrays[f'spec/{name}'] = np.frombuffer(text.encode(), np.uint8)
        arrays[f'logits/{name}'] = logits.astype(np.float32)
    path = FOLDER / f'{system}.npz'
    np.savez_compressed(path, **arrays)
    return path


def same(one: Row | None, other: Row) -> bool:
    """Whether two rows say the same, so that a file need not change."""
    return one is not None and all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name))
        if f.name == 'logits'
        else getattr(one, f.name) == getattr(other, f.name)
        for f in dataclasses.fields(other)
    )


def _row(spec: np.ndarray, logits: np.ndarray) -> Row:
    values = json.loads(spec.tobytes())
    tensors = {name: tuple(shape) for name, shape in values.pop('tensors').items()}
    # Modules are hashable, so JSON's lists become the tuples that they were.
    fields = {n: tuple(v) if isinstance(v, list) else v for n, v in values.pop('fields').items()}
    return Row(tensors=tensors, logits=logits, fields=fields, **values)

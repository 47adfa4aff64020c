"""The golden files: one npz for each system, two entries for each of its references."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Row:
    """The properties and logits of a reference with keyed weights.

    `tensors` maps all names of the state dict to shapes, `params` counts the trained parameters,
    `gain` is keyed.make's, `logits` are (count, classes) float32 for keyed.images(count, size,
    channels), computed in float64 by the reference, `made_with` names the package's version.
    `fields` are the fields of the module that make the network smaller than the registered variant;
    `tensors` and `logits` then belong to the small network, `params` to the registered one.
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
    """Returns 'package:constructor' -> row of a system's file; {} without a file."""
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
    """Writes a system's file and returns its path."""
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
    """Returns whether two rows are equal, and a file need not change."""
    return one is not None and all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name))
        if f.name == 'logits'
        else getattr(one, f.name) == getattr(other, f.name)
        for f in dataclasses.fields(other)
    )


def _row(spec: np.ndarray, logits: np.ndarray) -> Row:
    values = json.loads(spec.tobytes())
    tensors = {name: tuple(shape) for name, shape in values.pop('tensors').items()}
    values['fields'] = {name: _tuples(value) for name, value in values['fields'].items()}
    return Row(tensors=tensors, logits=logits, **values)


def _tuples(value: Any) -> Any:
    """Returns JSON's lists as tuples, since fields of a module are hashed."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

"""Writes cls/inference/export/VARIANTS.md from tests/exports.json.

python tests/inference/export_table.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / 'tests' / 'exports.json'
PAGE = ROOT / 'cls' / 'inference' / 'export' / 'VARIANTS.md'
TEXT = """\
For those who run an exported variant: each variant with the weights of its golden row, exported to
both formats, run (StableHLO by a process with JAX alone, ONNX by onnxruntime), compared with the
logits of the reference implementation; without a row, with those of the module. Numbers are the
largest difference in spreads of an image's logits; below 1e-4 is required. Images are the smallest
that the golden files have; * marks a network with fewer layers than the variant, + a comparison
with the module where that itself rounds by more than 5e-5. Times are of one image. Printed by
`python -m pytest -m export -n 0` and `python tests/inference/export_table.py`.
"""
KINDS = {'stablehlo': 'StableHLO', 'onnx': 'ONNX'}


def page(results):
    """Returns the page: counts, then a row for each variant."""
    lines = [
        '# Exported variants',
        '',
        *TEXT.splitlines(),
        '',
        *(f'- {name}: {counted(results, kind)}' for kind, name in KINDS.items()),
        '',
        '| variant | pixels | StableHLO | MB | ONNX | MB | ms: jitted, StableHLO, ONNX |',
        '| --- | --- | --- | --- | --- | --- | --- |',
    ]
    lines += [row(name, entry) for name, entry in sorted(results.items())]
    return '\n'.join(lines) + '\n'


def counted(results, kind):
    right = sum('difference' in entry[kind] for entry in results.values())
    return f'{right} of {len(results)} variants'


def row(name, entry):
    cells = [f'`{name}`', f'{entry["size"]}{"*" if entry["smaller"] else ""}']
    for kind in KINDS:
        part = entry[kind]
        mark = '+' if part.get('of_module') else ''
        cells.append(f'{part["difference"]:.0e}{mark}' if 'difference' in part else part['error'])
        cells.append(f'{part["bytes"] / 1e6:.1f}' if 'bytes' in part else '')
    times = [entry.get('step'), *(entry[kind].get('ms') for kind in KINDS)]
    cells.append('not measured' if None in times else ', '.join(map(str, times)))
    return f'| {" | ".join(cell.replace("|", " ") for cell in cells)} |'


if __name__ == '__main__':
    PAGE.write_text(page(json.loads(RESULTS.read_text())))

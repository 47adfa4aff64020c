"""Writes cls/inference/export/VARIANTS.md from the results in tests/.

python tests/inference/export_table.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / 'tests' / 'exports.json'
LATENCIES = ROOT / 'tests' / 'export_latencies.json'
PAGE = ROOT / 'cls' / 'inference' / 'export' / 'VARIANTS.md'
TEXT = """\
For those who run an exported variant: each variant with the weights of its golden row, exported to
both formats, run (StableHLO by a process with JAX alone, ONNX by onnxruntime), compared with the
logits of the reference implementation; without a row, with those of the module. Numbers are the
largest difference in spreads of an image's logits; below 1e-4 is required. Images are the smallest
that the golden files have; * marks a network with fewer layers than the variant. Hundreds of layers
amplify rounding: after a / is the difference of the module itself, in float32, from its program in
float64, and below thrice that is required of the file. Printed by `python -m pytest -m export -n 0`
and `python tests/inference/export_table.py`.
"""
LATENCY = """\
The time of one image next to that of the jitted step, for the first variant of each system at the
size of its images, with new weights. The ratios are of the file's time to the step's: the least of
turns in one process, with all cores of a CPU. The load is that of the machine before it: above the
number of cores, the numbers are rough. The step has the convolutions of `cls.nn.cpu`; StableHLO has
those of XLA alone, because it is for other devices too. Systems that are not listed were not
measured. Printed by `python tests/inference/export_latency.py`, which continues where it stopped.
"""
KINDS = {'stablehlo': 'StableHLO', 'onnx': 'ONNX'}


def page(results, latencies):
    """Returns the page: counts, a row for each variant, and the times."""
    lines = [
        '# Exported variants',
        '',
        *TEXT.splitlines(),
        '',
        *(f'- {name}: {counted(results, kind)}' for kind, name in KINDS.items()),
        '',
        '| variant | pixels | StableHLO | MB | ONNX | MB |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    lines += [row(name, entry) for name, entry in sorted(results.items())]
    lines += ['', '## Latency', '', *LATENCY.splitlines(), '']
    lines += ['| variant | pixels | ms, jitted step | StableHLO | ONNX | cores | load |']
    lines += ['| --- | --- | --- | --- | --- | --- | --- |']
    for name, each in sorted(latencies.items()):
        ratios = ' | '.join(f'{each[kind]:.2f} x' for kind in KINDS)
        cells = each['size'], each['step'], ratios, each['cores'], each['load']
        lines.append(f'| `{name}` | {" | ".join(map(str, cells))} |')
    return '\n'.join(lines) + '\n'


def read():
    """Returns the results, and the latencies."""
    files = (RESULTS, LATENCIES)
    return [json.loads(file.read_text()) if file.exists() else {} for file in files]


def counted(results, kind):
    right = sum('difference' in entry[kind] for entry in results.values())
    return f'{right} of {len(results)} variants'


def row(name, entry):
    cells = [f'`{name}`', f'{entry["size"]}{"*" if entry["smaller"] else ""}']
    for kind in KINDS:
        part = entry[kind]
        own = f' / {part["rounding"]:.0e}' if 'rounding' in part else ''
        cells.append(f'{part["difference"]:.0e}{own}' if 'difference' in part else part['error'])
        cells.append(f'{part["bytes"] / 1e6:.1f}' if 'bytes' in part else '')
    return f'| {" | ".join(cell.replace("|", " ") for cell in cells)} |'


if __name__ == '__main__':
    PAGE.write_text(page(*read()))

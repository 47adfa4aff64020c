"""Every variant as StableHLO and ONNX, compared with its reference: `pytest -m export -n 0`.

Sizes are those of the golden files, the smallest that a network of the family takes. Results are
stored in tests/exports.json after each variant, and a variant that passed is not run again: delete
its entry for that. `export_latency.py` measures times.
"""

import gc
import json
from pathlib import Path

import compiling
import jax
import numpy as np
import pytest
from compiling import FAST
from golden import keyed
from inference import float64
from inference.exported import Worker, row_of, source_of

from cls import models
from cls.inference.export import onnx_file, stablehlo
from cls.inference.export.source import difference
from cls.inference.export.trace import traced

pytestmark = pytest.mark.export

RESULTS = Path(__file__).parents[1] / 'exports.json'
TOLERANCE = 1e-4
LARGEST_ROUNDING = 1e-3


def stored():
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def store(name, entry):
    partial = RESULTS.with_suffix('.partial')
    partial.write_text(json.dumps({**stored(), name: entry}, indent=1, sort_keys=True) + '\n')
    partial.replace(RESULTS)


def is_done(entry):
    return all('difference' in entry.get(kind, {}) for kind in ('stablehlo', 'onnx'))


@pytest.fixture(scope='module')
def worker():
    process = Worker(FAST)
    yield process
    process.end()


def stablehlo_entry(source, graph, spec, images, logits, folder, worker):
    made = stablehlo.program_of(graph, spec, external=False)
    (file,) = stablehlo.write(made, folder / 'model.stablehlo')
    return measured(source, images, worker.run(file, images, folder), logits, [file])


def onnx_entry(source, graph, images, logits, folder):
    files = onnx_file.write(source, folder / 'model.onnx', graph)
    outputs = onnx_file.outputs(onnx_file.session(files[0], threads=1), images)
    return measured(source, images, outputs, logits, files)


def measured(source, images, outputs, logits, files):
    """Returns the entry of a format.

    Hundreds of layers amplify rounding. Where an artefact differs by more, the module in float32 is
    compared with the same program in float64 too: an artefact may differ by thrice as much.
    """
    result, tolerance, entry = difference(outputs, logits), TOLERANCE, {}
    if not result < TOLERANCE:
        exact = float64.outputs(source.compute, images)
        own = difference(np.asarray(compiling.jit(source.compute)(images)), exact)
        assert own < LARGEST_ROUNDING
        # A reference computes in float64 too, and stores float32.
        assert difference(exact, logits) < max(own, 1e-6)
        result, tolerance = difference(outputs, exact), max(TOLERANCE, 3 * own)
        entry = {'rounding': float(f'{own:.2g}')}
    size = sum(file.stat().st_size for file in files)
    if not result < tolerance:
        return {'error': f'differs by {result:.2g} of the spread', 'bytes': size, **entry}
    return {**entry, 'difference': float(f'{result:.2g}'), 'bytes': size}


def test_the_program_in_float64_computes_the_logits_of_the_reference():
    row, source = row_of('resnet20_cifar'), source_of('resnet20_cifar')
    images = keyed.images(row.count, source.size, source.channels)
    exact = float64.outputs(source.compute, images)
    assert exact.dtype == np.float64
    assert difference(exact, row.logits) < 3e-7  # float32 has steps of 1e-7


def smallest_first():
    return sorted(models.names(), key=lambda name: models.variant(name).params)


@pytest.mark.parametrize('name', smallest_first())
def test_a_variant_computes_its_references_logits_in_each_format(name, tmp_path, worker):
    if is_done(stored().get(name, {})):
        pytest.skip('is done')
    row, source = row_of(name), source_of(name)
    images = keyed.images(row.count if row else 2, source.size, source.channels)
    logits = row.logits if row else np.asarray(compiling.jit(source.compute)(images))
    entry = {'size': source.size, 'smaller': bool(row and row.fields), 'golden': bool(row)}
    try:
        spec = source.spec_of_any_number()
        graph = traced(source.compute, spec)
    except Exception as error:
        reason = ' '.join(str(error).split())[:300]
        store(name, {**entry, 'stablehlo': {'error': reason}, 'onnx': {'error': reason}})
        raise
    entries = {
        'stablehlo': lambda: stablehlo_entry(source, graph, spec, images, logits, tmp_path, worker),
        'onnx': lambda: onnx_entry(source, graph, images, logits, tmp_path),
    }
    for kind, make in entries.items():
        try:
            entry[kind] = make()
        except Exception as error:  # noqa: BLE001  named in the table, not fatal
            entry[kind] = {'error': ' '.join(str(error).split())[:300]}
    store(name, entry)
    for file in tmp_path.iterdir():
        file.unlink()
    jax.clear_caches()
    gc.collect()
    failures = {kind: entry[kind]['error'] for kind in entries if 'error' in entry[kind]}
    assert not failures
    assert np.isfinite(logits).all()

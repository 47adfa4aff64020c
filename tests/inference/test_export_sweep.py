"""Every variant as StableHLO and ONNX, compared with its reference: `pytest -m export -n 0`.

Sizes are those of the golden files, the smallest that a network of the family takes. Results are
stored in tests/exports.json after each variant, and a variant that passed is not run again: delete
its entry for that. With CLS_LATENCY=1 programs are compiled with all optimizations, and the seconds
of an image are stored too; it has to be the only load of the machine.
"""

import gc
import json
import os
import time
from pathlib import Path

import compiling
import jax
import numpy as np
import pytest
from compiling import FAST
from golden import keyed
from inference.exported import Worker, row_of, source_of

from cls import models
from cls.inference.export import onnx_file, stablehlo
from cls.inference.export.source import difference
from cls.inference.export.trace import traced

pytestmark = pytest.mark.export

RESULTS = Path(__file__).parents[1] / 'exports.json'
TOLERANCE = 1e-4
LATENCY = os.environ.get('CLS_LATENCY') == '1'
REPEATS = 10


def stored():
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def store(name, entry):
    partial = RESULTS.with_suffix('.partial')
    partial.write_text(json.dumps({**stored(), name: entry}, indent=1, sort_keys=True) + '\n')
    partial.replace(RESULTS)


def is_done(entry):
    return all('difference' in entry.get(kind, {}) for kind in ('stablehlo', 'onnx')) and (
        not LATENCY or 'step' in entry
    )


@pytest.fixture(scope='module')
def worker():
    process = Worker({} if LATENCY else FAST)
    yield process
    process.end()


def stablehlo_entry(source, graph, spec, images, logits, folder, worker):
    made = stablehlo.program_of(graph, spec, external=False)
    (file,) = stablehlo.write(made, folder / 'model.stablehlo')
    outputs, seconds = worker.run(file, images, folder, REPEATS if LATENCY else 0)
    return measured(source, images, outputs, logits, [file], seconds)


def onnx_entry(source, graph, images, logits, folder):
    files = onnx_file.write(source, folder / 'model.onnx', graph)
    session = onnx_file.session(files[0], threads=0 if LATENCY else 1)
    outputs = onnx_file.outputs(session, images)
    seconds = timed(lambda: onnx_file.outputs(session, images[:1])) if LATENCY else 0
    return measured(source, images, outputs, logits, files, seconds)


def measured(source, images, outputs, logits, files, seconds):
    """Returns the entry of a format.

    Hundreds of layers round so much that the module itself may differ from the reference: then the
    artefact is compared with the module.
    """
    result, entry = difference(outputs, logits), {}
    if not result < TOLERANCE:
        own = np.asarray(compiling.jit(source.compute)(images))
        if difference(own, logits) > TOLERANCE / 2:
            result, entry = difference(outputs, own), {'of_module': True}
    size = sum(file.stat().st_size for file in files)
    if not result < TOLERANCE:
        return {'error': f'differs by {result:.2g} of the spread', 'bytes': size}
    entry |= {'difference': float(f'{result:.2g}'), 'bytes': size}
    return {**entry, 'ms': round(seconds * 1000, 2)} if LATENCY else entry


def timed(call):
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def step_ms(source, images):
    step = jax.jit(source.compute)
    return round(timed(lambda: jax.block_until_ready(step(images[:1]))) * 1000, 2)


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
    if LATENCY:
        entry['step'] = step_ms(source, images)
    store(name, entry)
    for file in tmp_path.iterdir():
        file.unlink()
    jax.clear_caches()
    gc.collect()
    failures = {kind: entry[kind]['error'] for kind in entries if 'error' in entry[kind]}
    assert not failures
    assert np.isfinite(logits).all()

"""Every model against its reference: architecture, names, importer and numerics in one comparison.

tests/golden/make.py wrote the numbers, so no PyTorch is needed here. The default tests run some
variants of each system (zoo.py), `-m sweep` runs the others.
"""

import functools

import jax
import numpy as np
import pytest
import zoo
from compiling import FAST
from golden import keyed, rows

from cls import models, weights

ROWS = rows.read_all()
VARIANTS = {name: models.variant(name) for name in models.names()}
# Variant -> row. Variants that no package has are restated by their names (golden/restated/).
RESTATED = {row.split(':')[1]: row for row in ROWS if row.startswith('restated:')}
ROW_OF = RESTATED | {name: v.reference for name, v in VARIANTS.items() if v.reference is not None}
TOLERANCE = 1e-4  # of the logits' spread, in float32


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def _logits(model, variables, images):
    return model.apply(variables, images, train=False)


@pytest.mark.parametrize('name', zoo.each([n for n in VARIANTS if ROW_OF.get(n) in ROWS]))
def test_logits_and_parameters_are_the_references(name, record_property):
    row = ROWS[ROW_OF[name]]
    state_dict = keyed.state_dict(row.tensors, row.gain)
    variables = weights.from_torch(state_dict, name, **row.fields)
    assert row.params == VARIANTS[name].params
    if not row.fields:
        assert row.params == sum(value.size for value in jax.tree.leaves(variables['params']))

    images = keyed.images(row.count, row.size, row.channels)
    ours = np.asarray(_logits(models.create(name, **row.fields), variables, images))
    assert ours.shape == row.logits.shape
    spread = row.logits.std(axis=1).mean()
    assert np.abs(row.logits[0] - row.logits[1]).max() > 0.3 * spread  # images are distinguished
    difference = float(np.abs(ours - row.logits).max() / spread)
    record_property(f'agreement/{name}', difference)
    assert difference < TOLERANCE


def test_every_reference_has_a_row_and_every_row_a_variant():
    assert set(ROW_OF.values()) == set(ROWS)
    assert set(ROW_OF) <= set(VARIANTS)


def test_keyed_numbers_are_those_that_the_files_were_made_with():
    kernel = keyed.make('conv.weight', (2, 1, 1, 2))
    expected = np.float32([[[[0.0141106844, 0.213265896]]], [[[0.720350504, 0.424324512]]]])
    np.testing.assert_array_equal(kernel, expected)
    assert keyed.make('bn.running_var', (3,)).min() > 0.5
    assert abs(keyed.make('fc.weight', (4, 32)).sum(axis=1)).max() < 1e-5

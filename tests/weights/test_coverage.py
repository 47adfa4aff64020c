"""Each weight that three packages publish for the systems: recognized whole, or refused by name."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cls import models, weights
from cls.weights.hints import Hints

sys.path.append(str(Path(__file__).parent))
import published_weights as published

PAGE = Path(__file__).resolve().parents[2] / 'cls' / 'weights' / 'README.md'
ALIKE = published.FILE.with_name('alike.json')
ROWS = published.distinct(published.rows())
# Rows whose tensors are converted by default: each form of a table, on small networks.
SMALL = (
    'torchvision:efficientnet_b0.IMAGENET1K_V1',
    'torchvision:mnasnet0_5.IMAGENET1K_V1',
    'timm:mobilenetv3_small_100.lamb_in1k',
    'timm:seresnet50.a1_in1k',
    'timm:resnet10t.c3_in1k',
    'timm:tf_efficientnet_es.in1k',
    'timm:tf_mobilenetv3_small_075.in1k',
    'timm:dpn68b.mx_in1k',
)


@pytest.mark.parametrize(
    ('package', 'step'),
    [
        ('torchvision', 1),
        ('timm', 6),
        ('pytorchcv', 12),
        pytest.param('timm', 1, marks=pytest.mark.sweep),
        pytest.param('pytorchcv', 1, marks=pytest.mark.sweep),
    ],
)
def test_none_falls_through(package, step):
    """Each row fits with its number of classes, or is refused by the name of its network."""
    rows = [row for row in ROWS if row.package == package][::step]
    outcomes = {str(row): published.outcome(row) for row in rows}
    through = {name: each.text for name, each in outcomes.items() if each.kind == 'fall through'}
    assert not through
    assert any(each.kind == 'fit' for each in outcomes.values())


@pytest.mark.sweep
def test_page():
    """The page on weights has the coverage."""
    assert published.coverage() in PAGE.read_text()


@pytest.mark.parametrize(
    'row',
    [pytest.param(r, marks=() if str(r) in SMALL else pytest.mark.sweep) for r in ROWS],
    ids=str,
)
def test_complete(row):
    """Each tensor of a row is used, and each variable is filled."""
    outcome = published.outcome(row)
    if outcome.kind != 'fit':
        pytest.skip(outcome.text)
    match = outcome.match
    tensors = published.tensors(row)
    fitted = weights.fit(tensors, match.variant, without_head=not row.classes, **match.fields)
    assert not fitted.left_out
    model = models.create(match.variant, **fitted.fields)
    size = models.variant(match.variant).input_size
    abstract = models.abstract_variables(model, size, fitted.channels)
    shapes = {c: jax.tree.map(lambda leaf: leaf.shape, abstract[c]) for c in fitted.variables}
    filled = jax.tree.map(np.shape, fitted.variables)
    if not fitted.headless:
        assert filled == shapes
    counters = sum(name.endswith('num_batches_tracked') for name in tensors)
    assert len(jax.tree.leaves(fitted.variables)) == len(tensors) - counters


def test_default_rows_exist():
    """The rows by default are in the table."""
    assert {*SMALL} <= {str(row) for row in ROWS}


def _groups():
    """Returns (row with the tensors, classes of networks) of each group of alike.json."""
    rows = {f'{row.package}:{row.network}': row for row in reversed(published.rows())}
    for number, classes in enumerate(json.loads(ALIKE.read_text())):
        known = [rows[name] for each in classes for name in each if name in rows]
        marks = pytest.mark.sweep if number % 3 else ()
        if known:
            yield pytest.param(known[0], classes, id=classes[0][0], marks=marks)


@pytest.mark.parametrize(('row', 'classes'), list(_groups()))
def test_alike(row, classes):
    """Networks of equal tensors that compute different numbers are not taken for each other."""
    meant = []
    for names in classes:
        found = set()
        for name in names:
            package, _, network = name.partition(':')
            card = {'architecture': network} if package == 'timm' else {}
            file = f'{network}.pth' if package != 'timm' else ''
            outcome = published.outcome(row, Hints(card=card, file=file))
            assert outcome.kind != 'fall through', (name, outcome.text)
            if outcome.match:
                fields = {k: v for k, v in outcome.match.fields.items() if k != 'aux_head'}
                found.add((outcome.match.variant, str(sorted(fields.items()))))
        meant.append(found)
    for i, found in enumerate(meant):
        for other in meant[:i]:
            assert not found & other

"""Plans of small training sets: their rows are the batches of the host, to the bit."""

import jax
import numpy as np
import pytest

from cls.data import pipeline, resident, sources
from cls.errors import UserError
from cls.steps import sharding as meshes
from cls.steps.resident import planned_batch

SHARDING = meshes.batch_sharding(meshes.make_mesh(1, jax.devices()[:1]))
RNG = np.random.default_rng(0)
COLORED = sources.InMemory(
    RNG.integers(256, size=(46, 12, 12, 3), dtype=np.uint8),
    RNG.integers(10, size=46, dtype=np.int32),
    10,
)
REPEATED = sources.InMemory(*COLORED.arrays(), 10, length=101)

# A source and the fields of data for each way to make a batch.
KINDS = {
    'as they are': (COLORED, {}),
    'padded': (COLORED, {'train_crop': 'pad', 'pad': 3}),
    'of one color': (
        COLORED,
        {'train_crop': 'pad', 'pad': 3, 'pad_mode': 'mean', 'mean': (7.4, 200, 90.6)},
    ),
    'mirrored': (COLORED, {'train_crop': 'pad', 'pad': 5, 'pad_mode': 'mirror'}),
    'resized': (COLORED, {'train_crop': 'pad', 'pad': 3, 'image_size': 9}),
    'images of several examples': (REPEATED, {'train_crop': 'pad', 'pad': 1}),
    'repeated': (COLORED, {'train_crop': 'pad', 'pad': 3, 'repeats': 3}),
    'balanced': (COLORED, {'train_crop': 'pad', 'pad': 3, 'balanced': True}),
}


def both(make_data, kind, **options):
    """Returns the iterators over the same batches, of the host and as plans."""
    source, fields = KINDS[kind]
    data = make_data(**{'image_size': 12} | fields)
    options = {'batch': 12, 'seed': 5, 'num_classes': 10} | options
    return (
        pipeline.train_batches(source, data, **options),
        pipeline.resident_batches(source, data, **options),
    )


def rows(plans, count, size):
    """Returns the batches of the next steps, made on a device."""
    plan, table = plans.take(count), plans.table(size)
    one = jax.jit(
        lambda arrays, plan: planned_batch(arrays, plan, table.pad, table.border, SHARDING)
    )
    return [one(plans.arrays(size), jax.tree.map(lambda x, i=i: x[i], plan)) for i in range(count)]


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for key, value in other.items():
            assert batch[key].dtype == value.dtype
            np.testing.assert_array_equal(batch[key], value)


@pytest.mark.parametrize('kind', KINDS)
def test_the_batches_are_those_of_the_host(kind, make_data):
    """Over the end of an epoch, from any step, in parts of any length, on each of two processes."""
    for process in ((0, 1), (1, 2)):
        host, plans = both(make_data, kind, process=process)
        size = 9 if kind == 'resized' else 12
        expected = [next(host) for _ in range(10)]
        host.close()
        assert_same(rows(plans, 4, size) + rows(plans, 6, size), expected)
        assert plans.get_state() == host.get_state() == {'step': 10}
        plans.set_state({'step': 7})
        assert_same(rows(plans, 3, size), expected[7:])


def test_sizes_are_a_function_of_the_step(make_data):
    sizes = ((0, 6), (2, 12))
    host, plans = both(make_data, 'padded', sizes=sizes)
    expected = [next(host) for _ in range(5)]
    host.close()
    assert_same(rows(plans, 2, 6) + rows(plans, 3, 12), expected)


def test_two_sources_give_a_second_batch_under_valid(make_data):
    host, plans = both(make_data, 'padded')
    again, second = both(make_data, 'as they are', seed=6)
    zipped = resident.ZippedResident(plans, second)
    first = {**next(host), 'valid': next(again)}
    host.close()
    again.close()
    # The crop of the second is that of the first, or none without offsets.
    (batch,) = rows(zipped, 1, 12)
    assert_same([batch.pop('valid')], [first.pop('valid')])
    assert_same([batch], [first])
    assert zipped.get_state() == {'step': 1}


def test_only_small_sets_that_are_cropped_by_padding_are_resident(make_data, monkeypatch):
    assert both(make_data, 'as they are')[1]
    options = {'batch': 12, 'seed': 0, 'num_classes': 10}
    for crop in ('random_resized', 'distorted_box', 'scale_jitter'):
        data = make_data(image_size=12, train_crop=crop, scale=(12, 14))
        assert pipeline.resident_batches(COLORED, data, **options) is None
    monkeypatch.setattr(pipeline, 'LIMIT', 46 * 12 * 12 * 3 - 1)
    assert both(make_data, 'as they are')[1] is None
    assert both(make_data, 'resized')[1]


def test_a_label_beyond_the_classes_is_refused(make_data):
    labels = np.arange(46, dtype=np.int32) % 10
    source = sources.InMemory(COLORED.arrays()[0], labels, 10)
    with pytest.raises(UserError, match='Example 4 has the label 4: expected 0 to 3'):
        pipeline.resident_batches(source, make_data(image_size=12), batch=12, seed=0, num_classes=4)

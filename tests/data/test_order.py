"""The order of examples and random numbers: uniform, and functions of the position."""

import tracemalloc

import numpy as np
import pytest

from cls.data import order


def test_order_is_uniform():
    """Over many epochs, each example comes at each position of an epoch equally often."""
    at = np.arange(5 * 4000)
    places = order.shuffled(at, 5, seed=3).reshape(4000, 5)
    for example in range(5):
        assert (abs((places == example).mean(axis=0) - 0.2) < 0.03).all()


def test_pad_offsets_are_uniform():
    """Offsets of neighboring positions, and top and left, are independent, too."""
    offsets = order.pad_offsets(order.key(0, 1), np.arange(20_000), pad=2)
    for column in range(2):
        counts = np.bincount(offsets[:, column], minlength=5)
        assert counts.shape == (5,)
        assert abs(counts / 20_000 - 0.2).max() < 0.015
    assert abs(np.corrcoef(offsets[:, 0], offsets[:, 1])[0, 1]) < 0.03
    assert abs(np.corrcoef(offsets[1:, 0], offsets[:-1, 0])[0, 1]) < 0.03


def test_draws_are_functions_of_their_position():
    """Draws one by one, in batches and beyond the precomputed numbers agree, and are uniform."""
    stream = order.key(3, order.CROP)
    together = [[d.uniform(0, 1) for _ in range(40)] for d in order.draws(stream, np.arange(5, 9))]
    for position, numbers in enumerate(together, start=5):
        (alone,) = order.draws(stream, np.array([position]))
        assert [alone.uniform(0, 1) for _ in range(40)] == numbers
    assert len({number for numbers in together for number in numbers}) == 160
    drawn = [d.integers(2, 5) for d in order.draws(stream, np.arange(30_000)) for _ in range(2)]
    np.testing.assert_allclose(np.bincount(drawn) / 60_000, [0, 0, 1 / 3, 1 / 3, 1 / 3], atol=0.01)
    values = [d.uniform(-1, 3) for d in order.draws(stream, np.arange(30_000))]
    np.testing.assert_allclose(
        np.quantile(values, [0, 0.25, 0.5, 0.75, 1]), range(-1, 4), atol=0.05
    )


@pytest.mark.parametrize(
    'labels',
    [
        np.random.default_rng(0).integers(7, size=500),
        np.random.default_rng(1).integers(-1, 3, size=50).astype(np.int32),
        np.random.default_rng(2).integers(2**17, size=5000),  # more than 16 bits
        np.array([2**31 - 1, -5, 2**31 - 1, 3]),
        np.array([2**31 - 1, -5, -(2**31), 3], np.int32),  # a range beyond the type
        np.arange(3 * 2**18) ** 2 % 7 * 20_001,  # of several blocks
        np.array([4]),
    ],
)
def test_examples_sorted_by_class_are_those_of_each_class(labels):
    examples, starts = order.sorted_by_class(labels)
    unique = np.unique(labels)
    assert len(starts) == len(unique) + 1
    for label, start, stop in zip(unique, starts, starts[1:], strict=False):
        np.testing.assert_array_equal(examples[start:stop], np.flatnonzero(labels == label))


@pytest.mark.parametrize('count', [10, 1000, 2**16, 2**17])
def test_sorting_by_class_sorts_each_example_once(monkeypatch, count):
    """Not once for each class; more than 2**16 labels are sorted by their two halves."""
    lengths, argsort = [], np.argsort
    monkeypatch.setattr(
        np, 'argsort', lambda array, kind: lengths.append(len(array)) or argsort(array, kind=kind)
    )
    order.Balanced(np.arange(2**18) % count, seed=0)
    assert sum(lengths) == 2**18 * (2 if count > 2**16 else 1)


def test_sorting_by_class_takes_little_memory():
    """Four bytes an example and what a block takes; one sort of all would take sixteen more."""
    labels = np.arange(2**22, dtype=np.int32) % 1000
    tracemalloc.start()
    try:
        examples, _ = order.sorted_by_class(labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert examples.nbytes == labels.nbytes
    assert peak < 2 * labels.nbytes


def test_the_order_of_the_classes_is_drawn_once_for_many_batches(monkeypatch):
    """A batch is a small part of it if there are many classes."""
    lengths, permuted = [], order._permuted
    monkeypatch.setattr(
        order, '_permuted', lambda *args: lengths.append(args[0]) or permuted(*args)
    )
    balanced = order.Balanced(np.repeat(np.arange(500), 3), seed=11)
    chosen = np.concatenate([balanced(np.arange(at, at + 50)) for at in range(0, 1500, 50)])
    assert lengths.count(500) == 3
    assert sorted(chosen) == list(range(1500))


def test_the_order_of_an_epoch_is_drawn_once_for_each_of_many_seeds(monkeypatch):
    """Seeds that are trained together take their batches in turn."""
    drawn, permuted = [], order._permuted
    monkeypatch.setattr(order, '_permuted', lambda *args: drawn.append(args) or permuted(*args))
    seeds, length = range(71, 75), 40
    chosen = {seed: [] for seed in seeds}
    for start in range(0, 2 * length, 8):
        for seed in seeds:
            chosen[seed] += order.shuffled(np.arange(start, start + 8), length, seed).tolist()
    assert len(drawn) == 2 * len(seeds)
    for seed in seeds:
        assert sorted(chosen[seed]) == sorted([*range(length)] * 2)
        assert order.shuffled(np.arange(2 * length), length, seed).tolist() == chosen[seed]
    assert len({tuple(one) for one in chosen.values()}) == len(seeds)

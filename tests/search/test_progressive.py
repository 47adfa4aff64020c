"""PNAS's search: its levels against enumerations, the beam of a perfect predictor, and resuming."""

import functools

import grown
import jax
import numpy as np
import pytest

from cls import models
from cls.errors import UserError
from cls.models import pnasnet
from cls.models.registry import genotypes
from cls.nn.cells import CellSpec
from cls.search import loop
from cls.search.history import FILE, History
from cls.search.searcher import FAILED
from cls.search.searchers.progressive import Progressive
from cls.search.spaces.cells import AmoebaNetCells, PNASNetCells
from cls.search.spaces.tabular import NasBench201

SMALL = PNASNetCells(('identity', 'max_3x3'), nodes=2)


def worth(code):
    """A fitness from 0 to 1 that does not depend on the space of the formula."""
    return (hash(SMALL.key(code)) % 997) / 997


def perfect(searcher, fitness):
    """Makes a searcher predict the truth."""

    def predict(cells):
        return np.array([fitness(tuple(c[c >= 0].tolist())) for c in cells.reshape(len(cells), -1)])

    searcher.fit = lambda rng: predict
    return searcher


def levels(searcher, fitness):
    """Runs a search to its end; returns the codes of each level."""
    found = {}
    while trial := searcher.ask():
        found.setdefault(len(trial.code) // 4, []).append(trial.code)
        searcher.tell(trial, fitness(trial.code))
    return [found[nodes] for nodes in sorted(found)]


def keys(space, codes):
    return {space.key(code) for code in codes}


def test_first_level_is_all_cells_of_one_block():
    space = PNASNetCells()
    searcher = Progressive(space, 0)
    trials = [searcher.ask() for _ in range(136)]
    assert searcher.ask() is None
    codes = {trial.code for trial in trials}
    assert len(codes) == 136
    one = PNASNetCells(nodes=1)
    assert keys(space, codes) == keys(one, one.codes())


def test_growing_reaches_the_whole_space_and_ends():
    first = [*SMALL.expand(())]
    second = [larger for code in first for larger in SMALL.expand(code)]
    assert len(first) == 4 * 5 / 2
    assert len(second) == len(first) * 6 * 7 / 2
    for code in second:
        SMALL.check(code)
    assert keys(SMALL, second) == keys(SMALL, SMALL.codes())
    assert not [*SMALL.expand(second[0])]


@pytest.mark.parametrize(
    ('beam', 'operations'), [(20, 4), pytest.param(256, 8, marks=pytest.mark.sweep)]
)
def test_counts_are_the_papers(beam, operations):
    space = PNASNetCells(PNASNetCells().operations[:operations])
    searcher = Progressive(space, 0, beam=beam, predictor='ridge')
    rng = np.random.default_rng(0)
    found = levels(searcher, lambda code: rng.random())
    first = operations * (2 * operations + 1)
    assert [*map(len, found)] == [first, *[beam] * 4]
    assert searcher.asked == {4: 116, 8: 136 + 4 * 256}[operations]
    assert all(len(keys(space, level)) == len(level) for level in found)


def test_a_beam_that_holds_all_is_exhaustive():
    everything = keys(SMALL, SMALL.codes())
    searcher = Progressive(SMALL, 0, beam=len(everything) + 1, predictor='ridge')
    first, second = levels(searcher, worth)
    assert len(second) == len(everything)
    assert keys(SMALL, second) == everything
    assert max(map(worth, second)) == max(worth(code) for code in SMALL.codes())


def test_with_a_perfect_predictor_the_beam_is_the_best_that_grows():
    searcher = perfect(Progressive(grown.SPACE, 0, beam=15), grown.accuracy)
    found = levels(searcher, grown.accuracy)
    assert len(found) == 3
    for level, larger in zip(found, found[1:], strict=False):
        grow = [c for code in level for c in grown.SPACE.expand(code)]
        values = {grown.SPACE.key(code): grown.accuracy(code) for code in grow}
        best = sorted(values.values(), reverse=True)[:15]
        np.testing.assert_allclose([*map(grown.accuracy, larger)], best)


def test_parents_are_what_trials_grew_from():
    searcher = Progressive(SMALL, 0, beam=5, predictor='ridge')
    asked = []
    while trial := searcher.ask():
        asked.append(trial)
        searcher.tell(trial, worth(trial.code))
    for trial in asked[10:]:
        (parent,) = trial.parents
        assert trial.code[:-4] == asked[parent].code


def test_the_order_of_telling_changes_nothing():
    rng = np.random.default_rng(0)
    asked = []
    for shuffled in (False, True):
        searcher, codes = Progressive(grown.SPACE, 0, 10, ensemble=2, steps=5), []
        while level := [*iter(searcher.ask, None)]:
            codes += [trial.code for trial in level]
            for place in rng.permutation(len(level)) if shuffled else range(len(level)):
                assert searcher.ask() is None
                searcher.tell(level[place], grown.accuracy(level[place].code))
        asked.append(codes)
    assert asked[0] == asked[1]
    assert len(asked[0]) == 36 + 10 + 10


def test_what_failed_neither_grows_nor_is_learned_from():
    def fitness(code):
        return FAILED if 1 in code[2:4] else worth(code)

    searcher = Progressive(SMALL, 0, predictor='ridge', beam=1000)
    first, second = levels(searcher, fitness)
    assert {code[2:4] for code in second} == {(0, 0)}
    assert not levels(Progressive(SMALL, 0), lambda code: FAILED)[1:]


def run(folder, evaluations):
    folder.mkdir(exist_ok=True)
    loop.search(
        Progressive(grown.SPACE, 3, beam=12, ensemble=2, steps=5),
        loop.submit_inline(lambda trial: {'accuracy': grown.accuracy(trial.code)}),
        lambda metrics: metrics['accuracy'],
        History(folder / FILE),
        evaluations=evaluations,
        max_concurrent=3,
    )
    return (folder / FILE).read_bytes()


def test_a_search_continues_as_if_it_had_not_been_killed(tmp_path):
    whole = run(tmp_path / 'whole', 60)
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 120
    cut = tmp_path / 'cut'
    cut.mkdir()
    (cut / FILE).write_bytes(b''.join(lines[:99])[:-5])  # in the last level, within a line
    assert run(cut, 60) == whole


@pytest.mark.sweep
def test_what_is_chosen_is_better_than_what_is_drawn():
    """The predictions of each level, with the paper's ensemble."""
    for seed in range(3):
        found = levels(Progressive(grown.SPACE, seed, beam=30, steps=200), grown.accuracy)
        rng = np.random.default_rng(seed)
        for level, larger in zip(found, found[1:], strict=False):
            grow = [c for code in level for c in grown.SPACE.expand(code)]
            drawn = [grown.accuracy(grow[i]) for i in rng.choice(len(grow), 30)]
            assert np.mean([*map(grown.accuracy, larger)]) > np.mean(drawn) + np.std(drawn)


@pytest.mark.parametrize(
    'fields', [{'predictor': 'lsmt'}, {'beam': 0}, {'ensemble': 0}, {'learning_rate': 0.0}]
)
def test_other_values_are_refused(fields):
    with pytest.raises(UserError, match='config.search.searcher'):
        Progressive(SMALL, 0, **fields)


@pytest.mark.parametrize('space', [NasBench201(), AmoebaNetCells()])
def test_spaces_that_do_not_grow_are_refused(space):
    with pytest.raises(UserError, match='which has no expand'):
        Progressive(space, 0)


@pytest.mark.parametrize('fields', [{'cells': 2}, {'distinct': True}])
def test_spaces_are_of_one_cell(fields):
    with pytest.raises(ValueError, match='one cell'):
        PNASNetCells(**fields)


def test_cells_of_fewer_nodes_are_genotypes():
    space, code = PNASNetCells(), PNASNetCells().code(pnasnet.CELL)
    for length in range(4, 21, 4):
        genotype = space.genotype(code[:length])
        assert genotype.nodes == pnasnet.CELL.nodes[: length // 4]
        assert max(genotype.concat) == length // 4 + 1
        assert space.code(genotype) == code[:length]
        assert genotypes.structure(genotypes.plain(genotype), CellSpec) == genotype
    with pytest.raises(ValueError, match='of 2 nodes'):
        SMALL.code(pnasnet.CELL)


@pytest.mark.parametrize('nodes', [1, pytest.param(3, marks=pytest.mark.sweep)])
def test_cells_of_fewer_nodes_are_models(nodes):
    genotype = PNASNetCells().genotype(PNASNetCells().code(pnasnet.CELL)[: 4 * nodes])
    model = models.create(
        'pnasnet5_cifar', genotype=genotype, filters=8, cells=1, stem_filters=8, aux_head=False
    )
    images = jax.ShapeDtypeStruct((2, 16, 16, 1), 'float32')
    init = functools.partial(model.init_with_output, jax.random.key(0))
    logits, _ = jax.eval_shape(init, images)
    assert logits.shape == (2, 10)

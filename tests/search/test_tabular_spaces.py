"""Tabular spaces: equal networks, by hand and by the benchmark's own classes."""

import csv
import gzip

import nasdata
import pytest

from cls.search.spaces.tabular import NasBench201, NasBenchMacro


@pytest.mark.parametrize(
    ('one', 'other', 'same'),
    [
        ('000300', '114300', True),  # two nodes without a path to the output
        ('333000', '000000', True),  # no path at all
        ('100010', '000100', True),  # a skip from a node that skips
        ('100040', '000400', True),
        ('000300', '000200', False),
        ('000001', '000400', False),  # a sum of two zeros is not recognized as none
    ],
)
def test_models_of_nas_bench_201_that_are_the_same(one, other, same):
    space = NasBench201()
    assert (space.key(space.code(one)) == space.key(space.code(other))) is same


def test_the_name_of_a_model_of_nas_bench_201():
    conv = '(0)@nor_conv_3x3'
    second = f'({conv})@avg_pool_3x3+{conv}'  # skipped by the edge 3-2, and sorted as a whole
    space = NasBench201()
    assert space.key(space.code('334131')) == f'{second}+({conv})@nor_conv_3x3+0'


@pytest.mark.tables
def test_keys_of_nas_bench_201_are_the_classes_of_the_table():
    space = NasBench201()
    with gzip.open(nasdata.file('nasbench201/nb201.csv.gz'), 'rt') as lines:
        rows = [(row['ops'], row['unique']) for row in csv.DictReader(lines)]
    pairs = {(space.key(space.code(ops)), unique) for ops, unique in rows}
    assert len(rows) == space.size == 15_625
    assert len(pairs) == len({key for key, _ in pairs}) == len({u for _, u in pairs}) == 6_466


def test_models_of_nas_bench_macro():
    space = NasBenchMacro()
    assert len({space.key(code) for code in space.codes()}) == 3_969
    one = space.code('01002010')  # stages 01, 002, 010
    assert space.key(one) == space.key(space.code('01020010'))
    assert space.key(one) != space.key(space.code('01200010'))


@pytest.mark.tables
def test_parameters_are_equal_where_keys_are():
    space = NasBenchMacro()
    params = {}
    with gzip.open(nasdata.file('nasbench_macro/nasbench_macro.csv.gz'), 'rt') as lines:
        for row in csv.DictReader(lines):
            params.setdefault(space.key(space.code(row['arch'])), set()).add(row['params'])
    assert len(params) == 3_969
    assert all(len(counts) == 1 for counts in params.values())

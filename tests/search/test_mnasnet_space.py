"""The spaces of MnasNet and Accel-NASBench: sizes, published models, models of random codes."""

import csv
import dataclasses
import gzip
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls import models
from cls.models.efficientnet import B0
from cls.models.mnasnet import A1, B1
from cls.models.registry import abstract_variables, genotypes
from cls.models.registry.complexity import complexity
from cls.nn import inverted
from cls.search import registry
from cls.search.spaces.mnasnet import AccelNasBench, MnasNet, encode
from tests.search import nasdata

WIDTHS = MnasNet().widths
A1_WIDTHS = (*WIDTHS[:4], (*WIDTHS[4], 112), *WIDTHS[5:])
B1_WIDTHS = (*WIDTHS[:5], (*WIDTHS[5], 192), WIDTHS[6])


def test_sizes_are_products_of_the_choices():
    # By stage: operations, windows, gates, shortcuts; then widths and repetitions.
    stages = (2 * 2, 2 * 3, 3 * 3, 3 * 3, 3 * 3, 3 * 3, 3 * 2)
    assert MnasNet().size == math.prod(3 * 2 * 2 * 2 * stage for stage in stages)
    assert AccelNasBench().size == 12**7 * 3**6 * 4  # 1.04e11, as published


def test_widths_and_repetitions_are_mobilenetv2s_by_the_papers_factors():
    published = ((16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1))
    space = MnasNet()
    for (width, repeats), widths, counts in zip(
        published, space.widths, space.repeats, strict=True
    ):
        rounded = {inverted.round_channels(width * factor) for factor in (0.75, 1, 1.25)}
        assert widths == tuple(sorted(rounded))
        assert counts == tuple(n for n in (repeats - 1, repeats, repeats + 1) if n)


@pytest.mark.parametrize(
    ('net', 'widths', 'stage'), [(A1, A1_WIDTHS, 'stage 5'), (B1, B1_WIDTHS, 'stage 6')]
)
def test_a_published_model_needs_one_width_that_the_paper_does_not_name(net, widths, stage):
    with pytest.raises(ValueError, match=stage):
        MnasNet().code(net)
    space = MnasNet(widths=widths)
    code = space.code(net)
    space.check(code)
    assert space.genotype(code) == net


def test_efficientnet_b0_is_in_accel_nasbench():
    space = AccelNasBench()
    code = space.code(B0)
    space.check(code)
    assert space.genotype(code) == B0
    assert space.named('1666666,3353553,1223341,1111111') == code


@pytest.mark.parametrize(
    'text', ['r1_k3_s2_e3_o16', 'r1_k7_s1_e3_o16', 'r1_k3_s1_e3_o16_relu', 'r3_k3_s1_e3_o16']
)
def test_what_is_not_in_the_space_is_refused(text):
    genotype = inverted.Genotype(((text,), *A1.stages[1:]))
    with pytest.raises(ValueError, match='stage 1'):
        MnasNet(widths=A1_WIDTHS).code(genotype)


@pytest.mark.parametrize('name', ['7666666,3353553,1223341,1111111', '16,33,12,11', 'B0'])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(ValueError):
        AccelNasBench().named(name)


@pytest.mark.parametrize(('space', 'net'), [(MnasNet(), 'mnasnet_a1'), (AccelNasBench(), '')])
def test_random_codes_are_models(space, net):
    rng = np.random.default_rng(0)
    for _ in range(2):
        code = space.sample(rng)
        space.check(code)
        genotype = space.genotype(code)
        assert space.code(genotype) == code
        plain = genotypes.plain(genotype)
        assert genotypes.structure(plain, inverted.Genotype) == genotype
        model = models.create(net or 'efficientnet_b0', genotype=genotype)
        variables = abstract_variables(model, 64)
        images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
        logits = jax.eval_shape(model.apply, variables, images)
        assert logits.shape == (2, 1000)


def test_a_shortcut_that_has_no_place_makes_no_other_model():
    space = MnasNet()
    code = space.code(MnasNet(widths=A1_WIDTHS).genotype(space.sample(np.random.default_rng(1))))
    runs = space.runs(code)
    channels = space.stem
    for stage, run in enumerate(runs):
        other = list(code)
        other[6 * stage + 3] = 1 - other[6 * stage + 3]
        matters = run.repeats > 1 or (run.strides == 1 and run.features == channels)
        assert (space.key(tuple(other)) != space.key(code)) == matters
        channels = run.features


def test_strings_of_runs_are_read_back():
    run = inverted.Run(2, 5, 2, 6.0, 40, 0.25, False)
    assert encode(run) == 'r2_k5_s2_e6_o40_se0.25_noskip'
    for text in (run, dataclasses.replace(run, gate=0.0, skip=True)):
        assert inverted.decode(encode(text)) == text


def test_tables_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match='expected the same'):
        MnasNet(strides=(1, 2))
    assert registry.create('space', {'name': 'mnasnet'}) == MnasNet()


@pytest.mark.tables
def test_accel_nasbenchs_models_have_the_parameters_that_its_table_says():
    with gzip.open(nasdata.file('mnasnet_anb/anb.csv.gz'), 'rt') as lines:
        rows = list(csv.DictReader(lines))
    space = AccelNasBench()
    for row in rows[:: len(rows) // 8]:
        code = space.named(','.join(row[column] for column in ('e', 'k', 'l', 'se')))
        model = models.create('efficientnet_b0', genotype=space.genotype(code))
        assert complexity(model, 224).params / 1e6 == pytest.approx(float(row['params_m']))

"""Compiling for devices: the costs read from a compiled step, and the bounds for a chip."""

import importlib.util
import json
import subprocess
import sys

import jax
import pytest

from cls.config import load as configs
from cls.config.load import ROOT
from cls.errors import UserError
from cls.setup import set_up
from cls.steps.sharding import state_shardings
from cls.steps.state import abstract
from cls.tools import compile_for
from cls.tools.compile_for import Report, main
from cls.tools.tpu import costs, slices
from cls.tools.tpu.costs import Memory
from cls.tools.tpu.hlo import Collective, Move
from cls.tools.tpu.slices import Chip
from tests import tiny

# A second for each 1e12 operations, 1e10 bytes of HBM, 1e9 bytes sent, 1e6 cycles.
CHIP = Chip(1e12, 2**34, 1e10, 1e9, 1e6, 'made-up', 1, ('2x2',))
FIELDS = {'chips': 4, 'batch': 128, 'pixels': 224, 'model_flops': 8e11, 'compile_seconds': 1.5}
SENT = costs.sent([Collective('all-reduce', 10**6, 4), Collective('all-gather', 10**6, 2)])
REPORT = Report(
    **FIELDS,
    quick=False,
    fits=True,
    memory=Memory(2**33, 2**30, 2**30, 2**29, 2**32, 2**28),
    flops=3e11,
    bytes_accessed=5e9,
    cycles=6e5,
    collectives=SENT,
    moves=costs.moved(
        [Move('copy', 'u8[1000,1000]', 2), Move('copy', 'u8[999999]'), Move('copy', 'f32[500,600]')]
    ),
)


@pytest.fixture(scope='module')
def report():
    return compile_for.report_of(tiny.setup(('ema', '0.9'), devices=8))


def test_a_step_for_eight_devices(report):
    assert (report.chips, report.batch, report.pixels, report.fits) == (8, 16, 8, True)
    # Tiny multiplies 1x6 on each of 64 pixels, and 6x10.
    assert report.model_flops == 6 * (64 * 6 + 60) * 16
    assert report.flops > report.model_flops / 8 / 2
    assert report.bytes_accessed > 0
    assert report.cycles == 0  # the CPU's compiler does not report it


def test_its_memory(report):
    state, _ = tiny.setup(('ema', '0.9')).new_state()
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    images = 2 * (8 * 8 + 4 + 1)  # per device: pixels, label, mask
    # Statistics without a consumer are not arguments.
    assert whole * 0.9 <= report.memory.arguments <= whole + images
    assert report.memory.aliased >= 0.9 * whole
    each = report.memory
    parts = each.arguments + each.outputs + each.temporaries + each.code
    assert each.needed == parts - each.aliased


def test_its_collectives(report):
    state, _ = tiny.setup().new_state()
    gradients = sum(x.nbytes for x in jax.tree.leaves(state.params))
    assert set(report.collectives) == {'all-reduce'}
    reduced = report.collectives['all-reduce']
    assert gradients <= reduced.bytes < 2 * gradients + 1000
    assert reduced.sent == pytest.approx(reduced.bytes * 2 * 7 / 8)


@pytest.mark.parametrize('ema', ['0.0', '0.9'])
def test_shapes_of_a_new_state(ema):
    setup = tiny.setup(('ema', ema), ('optim.name', 'rmsprop'))
    state, _ = setup.new_state()
    shapes, _ = setup.new_state_shapes()
    where = state_shardings(state, setup.mesh)
    expected, found = abstract(state, where), abstract(shapes, where)
    assert jax.tree.structure(expected) == jax.tree.structure(found)
    assert jax.tree.leaves(expected) == jax.tree.leaves(found)


def test_imagenet_needs_no_files():
    config = compile_for.without_files(configs.load('configs/resnet.py:imagenet2012'))
    setup = set_up(config, jax.devices())
    assert setup.info.num_train == 1_281_167
    assert setup.info.num_classes == 1000
    assert setup.info.image_shape == (224, 224, 3)
    assert setup.total_steps == round(90 * 1_281_167 / 256)
    digits = configs.load('configs/resnet.py')
    assert compile_for.without_files(digits) is digits


def test_the_largest_images():
    sizes = "(('0 steps', 16), ('2 steps', 24), ('4 steps', 8))"
    setup = tiny.setup(('progressive', sizes), ('freeze_bn', '3 steps'))
    assert compile_for.largest_phase(setup) == setup.phases.at(2)


@pytest.mark.parametrize(
    ('message', 'needed'),
    [
        (
            'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory '
            'space hbm. Used 21.50G of 15.75G hbm. Exceeded hbm capacity by 5.75G.',
            21.5 * 2**30,
        ),
        (
            'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO '
            'temporaries (29.25G) exceeds available HBM (15.75G).',
            29.25 * 2**30,
        ),
        ('RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 3M of 2M vmem.', None),
        ('INTERNAL: something else', None),
    ],
)
def test_what_does_not_fit(message, needed):
    assert costs.too_large(message) == needed


@pytest.mark.parametrize(
    ('collective', 'bytes'),
    [
        (Collective('all-reduce', 800, 8), 1400),  # seven eighths in each direction
        (Collective('all-gather', 800, 8), 700),
        (Collective('reduce-scatter', 100, 8), 700),
        (Collective('all-to-all', 800, 8), 700),
        (Collective('collective-permute', 800, 8), 800),
        (Collective('all-reduce', 800, 1), 0),
    ],
)
def test_what_a_device_has_to_send(collective, bytes):
    assert costs.least_sent(collective) == bytes


def test_collectives_are_summed_by_kind():
    twice = Collective('all-reduce', 800, 8, times=2)
    found = costs.sent([twice, Collective('all-reduce', 80, 8)])
    assert found == {'all-reduce': costs.Sent(3, 1680, 2 * 1400 + 140)}


def test_bounds():
    limits = compile_for.bounds(REPORT, CHIP)
    assert limits.compute == pytest.approx(0.3)
    assert limits.memory == pytest.approx(0.5)
    assert limits.links == pytest.approx((1.5e6 + 0.5e6) / 1e9)
    assert (limits.resource, limits.seconds) == ('memory', limits.memory)
    # 8e11 operations on four chips that have 2e12 in half a second.
    assert compile_for.mfu(REPORT, CHIP, 0.5) == pytest.approx(0.4)
    assert compile_for.estimate(REPORT, CHIP) == pytest.approx(0.6)


def test_text():
    found = compile_for.text(REPORT, CHIP).splitlines()
    assert found == [
        'batch       128 on 4 chips, 224 pixels',
        'memory      8.00 GiB of 16.00: arguments 1.00, outputs 1.00, temporaries 4.00, '
        'code 0.25, outputs in place 0.50: fits',
        'a step      300.00 GFLOP, 5.00 GB accessed, 0.6 million cycles',
        'collectives all-reduce 1 (1.00 MB), all-gather 1 (1.00 MB)',
        'moves       copy 3 (3.20 MB, f32[500,600])',
        'bounds      compute 300.00 ms, HBM 500.00 ms, links 2.00 ms: 256 images/s, MFU 40.0 %',
        'estimate    600.00 ms: 213 images/s, MFU 33.3 %',
        'compiled in 2 s',
    ]
    large = Report(**FIELDS, quick=False, fits=False, memory=Memory(20 * 2**30))
    assert compile_for.text(large, CHIP).splitlines()[1:] == [
        'memory      20.00 GiB of 16.00: DOES NOT FIT',
        'compiled in 2 s',
    ]


def test_json():
    found = json.loads(json.dumps(compile_for.to_json(REPORT, CHIP)))
    assert found['images_per_second_bound'] == pytest.approx(256)
    assert found['mfu_estimate'] == pytest.approx(1 / 3)
    assert found['moves'] == {'copy': {'count': 3, 'bytes': 3_200_000, 'largest': 'f32[500,600]'}}
    assert found['collectives']['all-reduce'] == {'count': 1, 'bytes': 10**6, 'sent': 1.5e6}
    large = Report(**FIELDS, quick=False, fits=False, memory=Memory(20 * 2**30))
    assert 'bounds' not in compile_for.to_json(large, CHIP)


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ([], 'give --topology and --config'),
        (['--topology', 'v5e:4x4'], 'give --topology and --config'),
        (['--all', '--config.batch=2'], '--all and --write take no'),
        (['--all', 'resent'], "no config with ImageNet matches 'resent'"),
        (['--topology', 'v9:4x4', '--config', 'configs/resnet.py'], "--topology is 'v9:4x4'"),
        (['--topology', 'v5e:4x4', '--config', 'configs/resnte.py'], 'Did you mean configs/resn'),
        (
            ['--topology', 'v5e:4x4', '--config', 'configs/rir.py:imagenet2012'],
            "the config has no 'imagenet2012'",
        ),
        (
            ['--topology', 'v5e:4x4', '--config', 'configs/resnet.py', '--config.bacth=1'],
            'Did you mean batch',
        ),
    ],
)
def test_mistakes(argv, message, monkeypatch):
    monkeypatch.setattr(slices, 'check_libtpu', lambda: None)
    with pytest.raises(UserError, match=message):
        main(argv)


def test_an_ensemble_is_several_programs():
    config = configs.load('configs/inception_ensemble.py:imagenet2012')
    with pytest.raises(UserError, match='of 4 models, .*inception_v4.*: give the config of one'):
        compile_for.prepared(config, jax.devices())


@pytest.mark.sweep
@pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason='needs libtpu: pip install -r launch/requirements-tpu.txt',
)
def test_a_small_model_for_a_slice():
    fields = ['--config.model.dtype=bfloat16', '--config.ema=0.9', '--config.mesh.fsdp=2']
    where = ['--topology', 'v5e:2x2', '--config', 'configs/resnet.py']
    ran = subprocess.run(
        [sys.executable, '-m', 'cls.tools.compile_for', '--json', *where, *fields],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=900,
    )
    found = json.loads(ran.stdout)
    assert found['fits']
    assert found['chips'] == 4
    assert found['cycles'] > 0
    assert {'all-reduce', 'all-gather'} <= set(found['collectives'])
    params = 272_186  # of ResNet-20 on gray images; each has a parameter, momentum and average
    # At least half of the large ones; small arrays are padded to the tiles of the TPU's layouts.
    assert 3 * 4 * params / 2 < found['memory']['aliased'] < 3 * 4 * params * 4
    # Fewer than all multiply-adds: XLA leaves out those with padding.
    assert 0.4 < 4 * found['flops'] / found['model_flops'] < 1.2

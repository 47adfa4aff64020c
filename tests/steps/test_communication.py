"""The communication in the training step of real networks, in its program; with libtpu on TPU too.

libtpu compiles for TPUs that this machine has not: pip install libtpu, then
  JAX_PLATFORMS=cpu ./launch/test.sh -m sweep tests/steps/test_communication.py
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import pytest

from cls.config import load as configs
from cls.programs import compile_train_step
from cls.setup import abstract_state, set_up
from cls.tools.tpu.hlo import collectives

SHORT = (
    ('data.name', 'synthetic'),
    ('duration', '100 steps'),
    ('schedule.warmup', '0 steps'),
    ('log_every', '10 steps'),
    ('checkpoint.every', '10 steps'),
    ('eval.every', ''),
)


@pytest.mark.sweep  # minutes of compilation each; at 32 pixels every tap of a kernel sees the image
@pytest.mark.parametrize(
    ('file', 'overrides'),
    [
        ('configs/resnet.py:imagenet2012', (('data.num_classes', '1000'),)),
        (
            'configs/amoebanet.py:cifar10',
            (('data.num_classes', '10'), ('model.bn_group', '16'), ('augment.mixup', '0')),
        ),
    ],
    ids=['ResNet-50', 'AmoebaNet-A (6, 36)'],
)
def test_devices_send_gradients_statistics_and_metrics_alone(file, overrides):
    setup = set_up(configs.load(file, (*SHORT, *overrides)), jax.devices())
    state, optimizer = setup.new_state()
    where = abstract_state(state, setup.mesh)
    program = compile_train_step(setup, optimizer, where, setup.phases.at(0)).as_text()
    found = collectives(program)
    assert {(each.kind, each.group) for each in found} == {('all-reduce', 8)}
    sent = sum(each.times * each.bytes for each in found)
    gradients, statistics = (
        4 * sum(x.size for x in jax.tree.leaves(tree)) for tree in (state.params, state.batch_stats)
    )
    # Each device has whole groups, and sends its part of the means over them; losses, top-1.
    assert 0 <= sent - gradients - statistics <= 64


# A ResNet of four layers on 2 x 4 chips, state over four; prints [[kind, bytes, group], ...].
ON_TPU = """
import json
from jax.experimental import topologies
from cls import programs, setup
from cls.config import load as config
from cls.tools.tpu import hlo

overrides = json.loads(input())
chips = topologies.get_topology_desc(
    platform='tpu', topology_name='v5e:2x4', chips_per_host_bounds=(2, 2, 1), num_slices=1
).devices
setup_ = setup.set_up(config.load('configs/resnet.py', overrides), chips)
state, optimizer = setup_.new_state()
where = setup.abstract_state(state, setup_.mesh)
program = programs.compile_train_step(setup_, optimizer, where, setup_.phases.at(0)).as_text()
print(json.dumps([[x.kind, x.bytes * x.times, x.group] for x in hlo.collectives(program)]))
"""
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # no chip is used, so that none need be locked
}


def sent_on_tpu(*overrides):
    """(kind, devices) -> bytes, and the bytes of the parameters that are split and the others."""
    fields = (
        *SHORT,
        ('data.num_classes', '10'),
        ('batch', '64'),
        ('model.stage_sizes', '(1, 1, 1)'),
        *overrides,
    )
    run = subprocess.run(
        [sys.executable, '-c', ON_TPU],
        input=json.dumps(fields),
        env=os.environ | ENVIRONMENT,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, run.stderr
    sent = Counter()
    for kind, count, group in json.loads(run.stdout.splitlines()[-1]):
        sent[kind, group] += count
    kernels = 4 * 9 * 64 * (32 + 64)  # of the last block
    others = 4 * (9 * 16 * (3 + 16 + 16) + 9 * 32 * (16 + 32) + 64 * 10 + 10 + 2 * 240)
    return sent, kernels, others


STATISTICS = 4 * 2 * 240
METRICS = 4 * 2
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed'
)


@pytest.mark.sweep
@needs_libtpu
def test_microbatches_on_tpu_send_the_sum_of_their_gradients_and_no_images():
    sent, kernels, others = sent_on_tpu(('accumulate', '2'), ('model.bn_group', '4'))
    assert sent == {('all-reduce', 8): kernels + others + STATISTICS + METRICS}


@pytest.mark.sweep
@needs_libtpu
def test_split_kernels_on_tpu_are_gathered_in_bfloat16_and_gradients_scattered():
    sent, kernels, others = sent_on_tpu(('mesh.fsdp', '4'), ('model.bn_group', '8'))
    assert sent == {
        ('all-gather', 4): kernels // 2,
        ('reduce-scatter', 4): kernels // 4,
        ('all-reduce', 2): kernels // 4,
        ('all-reduce', 8): others + STATISTICS + METRICS,
        ('all-reduce', 4): 4 * 2,  # squares of split kernels and of their gradients, for the norms
    }

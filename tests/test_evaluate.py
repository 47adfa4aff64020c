"""Evaluation counts every image once, whatever the batch and the number of devices."""

import collections

import jax
import numpy as np
import pytest
import tiny

from cls.config import load as configs
from cls.evaluate import evaluate_batches
from cls.setup import set_up
from cls.steps import sharding as meshes
from cls.steps.train_step import normalize
from cls.tools.tpu.hlo import collectives

pytestmark = pytest.mark.usefixtures('quick_programs')

OVERRIDES = (('model.stage_sizes', '(1, 1, 1)'), ('model.widths', '(8, 8, 8)'))


def measured(devices, batch):
    """Returns the metrics of newly initialized weights on the test digits."""
    config = configs.load('configs/resnet.py', (*OVERRIDES, ('eval.batch', str(batch))))
    setup = set_up(config, jax.devices()[:devices])
    variables = setup.new_state()[0].variables()
    where = meshes.state_shardings(variables, setup.mesh)
    variables = meshes.put(variables, where)
    return setup, evaluate_batches(setup.eval_step(), variables, setup.eval_batches(), setup.mesh)


@pytest.fixture(scope='module')
def expected():
    """Returns the same metrics from all 355 images at once, computed by NumPy."""
    setup, _ = measured(1, 64)
    examples = [setup.test[i] for i in range(355)]
    images, labels = (np.stack([e[key] for e in examples]) for key in ('image', 'label'))
    inputs = normalize(images, setup.recipe.mean, setup.recipe.std)
    logits = np.float64(setup.model.apply(setup.new_state()[0].variables(), inputs))
    own = logits[np.arange(355), labels]
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return {
        'top1': 100 * np.mean(logits.argmax(1) == labels),
        'top5': 100 * np.mean((logits > own[:, None]).sum(1) < 5),
        'loss': np.mean(log_sum - own),
    }


@pytest.mark.parametrize(('devices', 'batch'), [(1, 64), (1, 355), (1, 100), (8, 64), (8, 50)])
def test_every_image_counts_once(devices, batch, expected):
    _, values = measured(devices, batch)
    assert values == pytest.approx(expected, rel=1e-5)


def test_devices_send_sums_and_the_class_and_label_of_each_image():
    setup = tiny.setup(devices=8)
    variables, batch = setup.initial(), next(iter(setup.eval_batches()))
    variables = meshes.put(variables, meshes.state_shardings(variables, setup.mesh))
    batch = meshes.put_batch(batch, meshes.batch_sharding(setup.mesh))
    program = setup.eval_step().lower(variables, batch).compile().as_text()
    found = collectives(program)
    assert {each.group for each in found} == {8}
    sent = collections.Counter()
    for each in found:
        sent[each.kind] += each.bytes
    count = len(batch['label'])
    assert sent == {'all-reduce': 4 * 4, 'all-gather': 2 * 4 * count}  # top-1, top-5, loss, count

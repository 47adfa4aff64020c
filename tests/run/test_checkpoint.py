"""Checkpoints: the loop does not wait for them, and they have the state of their save."""

import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cls.errors import UserError
from cls.run import checkpoint, checkpoint_files
from cls.steps import sharding
from cls.steps.state import abstract


def test_a_checkpoint_has_the_state_of_its_save_though_steps_reuse_the_memory(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    mesh = sharding.make_mesh(2, jax.devices()[:2])
    host = {'step': np.int32(3), 'kernel': np.arange(2**14, dtype=np.float32)}
    shardings = sharding.state_shardings(host, mesh)
    state = sharding.put(host, shardings)
    state = {'step': state['step'], 'kernel': step(step(state['kernel']))}
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    checkpoints.save(3, state, {'step': 3}, {'total': 1.0})
    for _ in range(3):
        state['kernel'] = step(state['kernel'])
    checkpoints.wait()
    restored, data, ledger = checkpoints.restore(abstract(host, shardings))
    checkpoints.close()
    np.testing.assert_array_equal(restored['kernel'], host['kernel'] + 2)
    assert restored['kernel'].sharding == shardings['kernel']
    assert (data, ledger) == ({'step': 3}, {'total': 1.0})


def test_the_loop_does_not_wait_for_orbax_but_learns_of_its_errors(tmp_path, monkeypatch):
    ready, save = threading.Event(), ocp.AsyncCheckpointer.save

    def slow(*args, **kwargs):
        assert ready.wait(30)
        return save(*args, **kwargs)

    monkeypatch.setattr(ocp.AsyncCheckpointer, 'save', slow)
    checkpoints, state = checkpoint.Checkpoints(tmp_path, keep=2), {'step': np.int32(1)}
    checkpoints.save(1, state, {}, {})  # returns, or the assertion fails
    assert checkpoint_files.steps(tmp_path) == []
    ready.set()
    checkpoints.wait()
    assert checkpoint_files.steps(tmp_path) == [1]

    def fails(*args, **kwargs):
        raise OSError('Input/output error')

    monkeypatch.setattr(ocp.AsyncCheckpointer, 'save', fails)
    checkpoints.save(2, {'step': np.int32(2)}, {}, {})
    with pytest.raises(UserError, match='2 cannot be written .Input/output error'):
        checkpoints.save(3, {'step': np.int32(3)}, {}, {})
    assert checkpoints.failed
    assert checkpoint_files.steps(tmp_path) == [1]

"""Checkpoints: the loop does not wait for them, and they have the state of their save."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

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


def saved(folder, **parts):
    """Saves step 1 with these parts; returns the folder and their shapes on the first device."""
    state = {'step': np.int32(1), **parts}
    checkpoints = checkpoint.Checkpoints(folder, keep=1)
    checkpoints.save(1, state, {}, {})
    checkpoints.close()
    mesh = sharding.make_mesh(1, jax.devices()[:1])
    return folder, abstract(state, sharding.state_shardings(state, mesh))


def test_an_evaluation_reads_no_state_of_the_optimizer_but_compares_its_form(tmp_path):
    momentum = {'fc': np.ones(3, np.float32)}
    folder, where = saved(tmp_path, params={'fc': np.arange(3.0)}, opt_state=momentum)
    unread = checkpoint.unread(where['opt_state'])
    state = checkpoint.restore_newest(folder, where | {'opt_state': unread})
    np.testing.assert_array_equal(state['params']['fc'], np.arange(3.0))
    assert state['opt_state'] == {'fc': ocp.PLACEHOLDER}
    for part in ('params', 'opt_state'):
        other = where | {'opt_state': unread} | {part: {'conv': ocp.PLACEHOLDER}}
        with pytest.raises(UserError, match='undamaged but has another state'):
            checkpoint.restore_newest(folder, other)


def test_a_large_array_is_saved_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, '_CHUNK', 2**12)
    folder, where = saved(tmp_path, kernel=np.arange(2**12, dtype=np.float32).reshape(64, 64))
    metadata = ocp.PyTreeCheckpointer().metadata(folder / '1' / 'state').item_metadata.tree
    assert np.prod(metadata['kernel'].storage.chunk_shape) * 4 == 2**12
    state = checkpoint.restore_newest(folder, where)
    np.testing.assert_array_equal(state['kernel'].ravel(), np.arange(2**12))


def test_data_files_are_written_before_all_arrays_are_compressed(tmp_path, monkeypatch):
    """TensorStore keeps a file in memory until it is full."""
    monkeypatch.setattr(checkpoint, '_FILE', 2**14)
    random = np.random.default_rng(0)
    arrays = {f'layer{i}': random.random(2**11, np.float32) for i in range(16)}
    folder, where = saved(tmp_path, **arrays)
    sizes = [file.stat().st_size for file in (folder / '1' / 'state').glob('**/d/*')]
    assert len(sizes) > 4 and max(sizes) < 2**15
    state = checkpoint.restore_newest(folder, where)
    for name, array in arrays.items():
        np.testing.assert_array_equal(state[name], array)


def test_the_host_copies_no_array_for_orbax(tmp_path, monkeypatch):
    """Zeros of momentum, views of one element, take no memory when weights are imported."""
    copied = []
    monkeypatch.setattr(copy, 'deepcopy', lambda x, *_: copied.append(x) or x)
    zeros = np.broadcast_to(np.float32(0), (64, 64))
    folder, where = saved(tmp_path, momentum=zeros)
    assert not [x for x in copied if isinstance(x, np.ndarray)]
    np.testing.assert_array_equal(checkpoint.restore_newest(folder, where)['momentum'], zeros)


def test_the_memory_of_reading_a_checkpoint_is_given_back(tmp_path, monkeypatch):
    """The C library keeps the pieces of compressed files: they are small."""
    returned = []
    monkeypatch.setattr(checkpoint, 'return_memory', lambda: returned.append('state'))
    folder, where = saved(tmp_path, kernel=np.zeros(3))
    checkpoint.restore_newest(folder, where)
    assert returned == ['state']
    checkpoints = checkpoint.Checkpoints(folder, keep=1)
    checkpoints.restore(where)
    checkpoints.close()
    assert returned == 2 * ['state']


def test_runs_of_one_process_save_at_a_time(tmp_path):
    """Orbax alone raises errors here, or loses files."""

    def run(number):
        checkpoints = checkpoint.Checkpoints(tmp_path / str(number), keep=1)
        for step in range(1, 4):
            state = {str(name): np.full(1000, number + step) for name in range(50)}
            checkpoints.save(step, state, {'seed': number}, {})
        checkpoints.wait()
        restored, data, _ = checkpoints.restore(abstract(state, mesh_of_one(state)))
        checkpoints.close()
        return restored, data

    def mesh_of_one(state):
        mesh = sharding.make_mesh(1, jax.devices()[:1])
        return sharding.state_shardings(state, mesh)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    for number, (restored, data) in enumerate(results):
        assert data == {'seed': number}
        for array in restored.values():
            np.testing.assert_array_equal(array, np.full(1000, number + 3))

"""Meshes: the layout of devices, the sharding of the state, and arrays that return from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cls.errors import UserError
from cls.steps.sharding import (
    batch_sharding,
    make_mesh,
    put,
    put_batch,
    replicated,
    state_shardings,
    whole,
)


@pytest.mark.parametrize('fsdp', [1, 2, 4, 8])
def test_devices_are_divided(fsdp):
    mesh = make_mesh(fsdp)
    assert dict(mesh.shape) == {'data': 8 // fsdp, 'fsdp': fsdp}
    assert [d.id for d in mesh.devices.ravel()] == [d.id for d in jax.devices()]


def test_one_device_is_a_mesh_too():
    assert dict(make_mesh(1, jax.devices()[:1]).shape) == {'data': 1, 'fsdp': 1}
    assert dict(make_mesh(2, jax.devices()[:6]).shape) == {'data': 3, 'fsdp': 2}


@pytest.mark.parametrize('fsdp', [3, 16, 0, -1])
def test_what_does_not_divide(fsdp):
    with pytest.raises(UserError, match=rf'config.mesh.fsdp is {fsdp}, .* 8 devices'):
        make_mesh(fsdp)


SPLIT = {  # shape -> axis that four devices share, or None
    (3, 3, 64, 128): 3,
    (3, 3, 256, 128): 2,
    (4096, 10): 0,
    (130, 1000): 1,
    (1001, 1000): 1,  # the larger axis does not divide
    (1001, 131): None,
    (128, 128): 0,
    (127, 128): None,  # fewer elements than are worth splitting
    (16_384,): 0,
    (16_380,): None,
    (): None,
}


@pytest.mark.parametrize('shape', SPLIT)
def test_the_largest_axis_that_divides_is_split(shape):
    mesh = make_mesh(4)
    axis = SPLIT[shape]
    (sharding,) = state_shardings([jax.ShapeDtypeStruct(shape, jnp.float32)], mesh)
    expected = list(shape)
    if axis is not None:
        expected[axis] //= 4
    assert sharding.shard_shape(shape) == tuple(expected)
    assert sharding.is_fully_replicated == (axis is None)
    whole = state_shardings([jax.ShapeDtypeStruct(shape, jnp.float32)], make_mesh(1))
    assert whole[0].is_fully_replicated


def test_state_there_and_back():
    mesh = make_mesh(4)
    rng = np.random.default_rng(0)
    state = {
        'kernel': rng.standard_normal((3, 3, 32, 64)).astype(np.float32),
        'scale': jnp.arange(5.0),
        'step': np.int32(7),
        'none': None,
    }
    shardings = state_shardings(jax.tree.map(np.asarray, state), mesh)
    placed = put(state, shardings)
    assert jax.tree.structure(placed) == jax.tree.structure(state)
    for x, y, sharding in zip(*map(jax.tree.leaves, (state, placed, shardings)), strict=True):
        assert y.sharding == sharding
        assert y.dtype == np.asarray(x).dtype
        np.testing.assert_array_equal(x, y)
    shards = placed['kernel'].addressable_shards
    assert {s.data.shape for s in shards} == {(3, 3, 32, 16)}
    assert len(shards) == 8
    for shard in shards:
        np.testing.assert_array_equal(shard.data, state['kernel'][shard.index])
    for x, y in zip(*map(jax.tree.leaves, (state, whole(placed, mesh))), strict=True):
        assert {s.data.shape for s in y.addressable_shards} == {np.shape(x)}
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('fsdp', [1, 2, 8])
def test_a_batch_there_and_back(fsdp):
    sharding = batch_sharding(make_mesh(fsdp))
    batch = {
        'image': np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), np.uint8),
        'label': np.arange(16, dtype=np.int32),
        'mask': np.arange(16) < 11,
    }
    placed = put_batch(batch, sharding)
    for name, x in batch.items():
        assert placed[name].dtype == x.dtype
        np.testing.assert_array_equal(placed[name], x)
    # Two consecutive examples to each device, in the order of the devices.
    shards = sorted(placed['label'].addressable_shards, key=lambda s: s.device.id)
    assert [np.asarray(s.data).tolist() for s in shards] == [[i, i + 1] for i in range(0, 16, 2)]


def test_replicated():
    sharding = replicated(make_mesh(2))
    assert sharding.spec == P()
    assert sharding.is_fully_replicated


def test_why_the_height_of_images_is_not_split():
    """XLA's partitioner gets this gradient wrong; where this fails, splitting it may be tried."""

    def gradient(x, cotangent):
        def pooled(x):
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), 'SAME')

        return jax.vjp(pooled, x)[1](cotangent)[0]

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 16, 16, 3), np.float32) for _ in range(2)]
    mesh = Mesh(np.array(jax.devices()[:2]), ('rows',))
    rows = NamedSharding(mesh, P(None, 'rows'))
    whole = jax.jit(gradient)(*arrays)
    split = jax.jit(gradient)(*(jax.device_put(x, rows) for x in arrays))
    assert np.linalg.norm(split - whole) > 0.5 * np.linalg.norm(whole)


def test_leaves_that_share_memory_on_the_host_are_updated_separately():
    memory = np.zeros(2**12 + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4  # at such an address a CPU device uses the memory itself
    shared = memory[start : start + 2**12]
    mesh = make_mesh(1, jax.devices()[:1])
    state = {'params': shared, 'ema': shared, 'momentum': np.broadcast_to(np.float32(0), (2**12,))}
    state = put(state, state_shardings(state, mesh))
    add = {'params': 1.0, 'ema': 2.0, 'momentum': 3.0}
    step = jax.jit(lambda tree: jax.tree.map(jnp.add, tree, add), donate_argnums=0)
    for count in (1, 2, 3):
        state = step(state)
        assert {name: set(np.unique(x)) for name, x in state.items()} == {
            name: {count * value} for name, value in add.items()
        }
    assert not memory.any()

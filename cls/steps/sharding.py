"""The mesh of the devices, with two axes, and the shardings of states and batches.

The batch is split over all devices. The state (parameters, optimizer state, averages) is replicated
along `data` and sharded along `fsdp`. A step gathers the parameters (`gathered`) and sums their
gradients so that each device gets its own shard; an evaluation gathers them only once (`whole`). A
single device is a 1 x 1 mesh, not a special case.
"""

import functools
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cls.errors import UserError
from cls.nn import norm

AXES = ('data', 'fsdp')
# Arrays with fewer elements are replicated: gathering them would cost more than it saves.
MIN_SPLIT = 2**14


def make_mesh(fsdp: int, devices: list[Any] | None = None) -> Mesh:
    """Returns the (data, fsdp) mesh of the given devices, by default of all.

    Raises UserError when the number of devices is not a multiple of `fsdp`.
    """
    if devices is None:  # each process has consecutive rows of a batch
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(
            f'config.mesh.fsdp is {fsdp}, but the {len(devices)} devices do not divide into such '
            'groups; choose a divisor.'
        )
    return Mesh(np.asarray(devices).reshape(-1, fsdp), AXES)


def is_cpu(mesh: Mesh | AbstractMesh) -> bool:
    """Whether the devices are known to be CPUs."""
    return isinstance(mesh, Mesh) and mesh.devices.flat[0].platform == 'cpu'


def of_tpus(mesh: Mesh | AbstractMesh) -> Mesh | None:
    """Returns the mesh if its devices are known to be TPUs, otherwise None."""
    if isinstance(mesh, Mesh) and mesh.devices.flat[0].platform == 'tpu':
        return mesh
    return None


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding of a batch: examples, by default the first axis, over all devices."""
    return NamedSharding(mesh, P(*[None] * axis, AXES))


def local_rows(batch: jax.Array, axis: int = 0) -> np.ndarray:
    """Returns this process's share of an array with `batch_sharding`, in host memory."""
    if batch.is_fully_addressable:
        return np.asarray(batch)
    shards = sorted(batch.addressable_shards, key=lambda shard: shard.index[axis].start)
    return np.concatenate([np.asarray(shard.data) for shard in shards], axis)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding of arrays that are replicated on every device."""
    return NamedSharding(mesh, P())


def state_shardings(state: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns the shardings of a state: the largest axis divisible by `fsdp` is split along it.

    Small arrays are replicated.
    """
    fsdp = mesh.shape['fsdp']

    def sharding(x):
        axes = [i for i, n in enumerate(x.shape) if n % fsdp == 0]
        if fsdp == 1 or math.prod(x.shape) < MIN_SPLIT or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda i: x.shape[i])
        return NamedSharding(mesh, P(*[None] * largest, 'fsdp'))

    return jax.tree.map(sharding, state)


def gathered(params: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns parameters replicated on every device, inside a compiled step.

    Their gradients are sharded like the parameters: summed over the devices by reduce-scatter if
    XLA supports it. By default XLA would send either a kernel or its input, the smaller of the two,
    and with the input every device along `data` would repeat the same computation.
    """

    def one(x, sharding):
        return x if sharding.is_fully_replicated else _gather(x, sharding)

    return jax.tree.map(one, params, state_shardings(params, mesh))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, replicated(sharding.mesh))


def _gather_forward(x, sharding):
    return _gather(x, sharding), None


def _gather_backward(sharding, _, grad):
    return (jax.lax.with_sharding_constraint(grad, sharding),)


_gather.defvjp(_gather_forward, _gather_backward)


def whole(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays on the mesh, replicated on every device."""
    if mesh.shape['fsdp'] == 1:
        return tree
    return jax.jit(_same, out_shardings=replicated(mesh))(tree)


def _same(tree: Any) -> Any:
    return tree


def put(tree: Any, shardings: Any) -> Any:
    """Puts host arrays, the same on every process, on the devices.

    A CPU device may use the memory of an array itself. A step that donates it writes elsewhere, so
    leaves may share memory on the host, but the arrays must not change.
    """

    def place(x, sharding):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree, shardings)


def put_batch(batch: Any, sharding: NamedSharding) -> Any:
    """Makes global arrays from each process's share of a batch."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def split_groups(batch: int, devices: int, group: int, batch_stats: Any) -> str:
    """Returns a line on batch-norm groups that are split over several devices, '' if none are.

    Args:
      batch: number of examples that are computed together.
      devices: number of devices that share them.
      group: the model's bn_group; 0: the whole batch.
      batch_stats: the statistics of the model, or their shapes.
    """
    share, group = batch // devices, group or batch
    if share % group == 0 or not norm.kept(batch_stats, lambda _: True):
        return ''
    if group % share == 0:
        return (
            f'batch norm: groups of {group} examples are on {group // share} devices each, which '
            f'sum their statistics in every norm; config.model.bn_group={share} would keep them on '
            'one.'
        )
    return (
        f'batch norm: groups of {group} examples (config.model.bn_group) and devices of {share} do '
        'not divide one another: in every norm devices send one another the sums of all examples. '
        'Choose config.batch, or a number of devices, with which they do.'
    )

"""Devices as a mesh of two axes, and where state and batches lie on it.

The batch is split over all devices. The state (parameters, optimizer state, averages) is whole on
every device along `data` and split along `fsdp`. A step gathers the parameters (`gathered`) and
sums their gradients so that each device gets the part that it keeps; an evaluation gathers them
once (`whole`). One device is the 1 x 1 mesh, not a case of its own.
"""

import functools
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cls.errors import UserError

AXES = ('data', 'fsdp')
# Arrays with fewer elements stay whole: gathering them would cost more than they weigh.
MIN_SPLIT = 2**14


def make_mesh(fsdp: int, devices: list[jax.Device] | None = None) -> Mesh:
    """Returns the (data, fsdp) mesh of all devices, or of those given.

    Raises UserError when the number of devices is not a multiple of `fsdp`.
    """
    if devices is None:  # each process has rows of a batch that follow one another
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(
            f'config.mesh.fsdp is {fsdp}, but the {len(devices)} devices do not divide into such '
            'groups; choose a divisor.'
        )
    return Mesh(np.asarray(devices).reshape(-1, fsdp), AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples, the first axis, over all devices."""
    return NamedSharding(mesh, P(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Each array's largest axis that `fsdp` divides is split along it, small arrays excepted."""
    fsdp = mesh.shape['fsdp']

    def sharding(x):
        axes = [i for i, n in enumerate(x.shape) if n % fsdp == 0]
        if fsdp == 1 or math.prod(x.shape) < MIN_SPLIT or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda i: x.shape[i])
        return NamedSharding(mesh, P(*[None] * largest, 'fsdp'))

    return jax.tree.map(sharding, state)


def gathered(params: Any, mesh: Mesh) -> Any:
    """Returns parameters whole on every device, inside of a compiled step.

    Their gradients come out split as the parameters are: summed over the devices by reduce-scatter
    where XLA has it. Left to itself XLA would send the smaller of a kernel and what the kernel is
    applied to, and for the latter make every device along `data` compute the same.
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
    """Returns arrays on the mesh whole on every device."""
    if mesh.shape['fsdp'] == 1:
        return tree
    return jax.jit(_same, out_shardings=replicated(mesh))(tree)


def _same(tree: Any) -> Any:
    return tree


def put(tree: Any, shardings: Any) -> Any:
    """Places host arrays, the same on every process, on the devices."""

    def place(x, sharding):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree, shardings)


def put_batch(batch: Any, sharding: NamedSharding) -> Any:
    """Makes global arrays of each process's share of a batch."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

"""Devices as a mesh of two axes, and where state and batches lie on it.

The batch is split over all devices. The state is whole on every device along `data` and split along
`fsdp`; XLA gathers what a layer needs. One device is the 1 x 1 mesh, not a case of its own.
"""

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
    devices = jax.devices() if devices is None else devices
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


def put(tree: Any, shardings: Any) -> Any:
    """Places host arrays, the same on every process, on the devices."""

    def place(x, sharding):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree, shardings)


def put_batch(batch: Any, sharding: NamedSharding) -> Any:
    """Makes global arrays of each process's share of a batch."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

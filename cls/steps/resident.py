"""Training steps on a data set that is on the devices: many of them in one program.

A batch is a plan of `cls.data.resident` with the table that it refers to:
{'table': {'image': (N, H, W, C) uint8, 'label': (N,) int32}, 'plan': {'index': (K, n) int32,
'offset': (K, n, 2) int32}, 'count': () int32}. The first `count` of the K rows of the plan are
trained on. The table is replicated on all devices, and the plan is sharded along n.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cls.steps import sharding as meshes
from cls.steps.train_step import Batch

MOST = 64  # steps in one call, at most


def plan_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a plan: examples, the second axis, over all devices."""
    return NamedSharding(mesh, P(None, meshes.AXES))


def crops(
    images: jax.Array, offsets: jax.Array, pad: int, border: tuple[int, ...] | None
) -> jax.Array:
    """Returns crops of images after padding, as `cls.data.transforms.pad_crop`, to the bit.

    Args:
      images: (n, H, W, C) uint8.
      offsets: (n, 2) int32, top and left of the crops in 0..2*pad.
      pad: the number of pixels on every side.
      border: the padding, one value or one for each channel; None: reflected pixels.

    Returns:
      (n, H, W, C) uint8.
    """
    sides = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    if border is None:
        padded = jnp.pad(images, sides, 'reflect')
    else:
        color = jnp.asarray(border, jnp.uint8)  # differences and sums are modulo 256
        padded = jnp.pad(images - color, sides) + color

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (*offset, 0), images.shape[1:])

    return jax.vmap(crop)(padded, offsets)


def planned_batch(
    table: Any, plan: Any, pad: int, border: tuple[int, ...] | None, sharding: NamedSharding
) -> Batch:
    """Returns the batch of one row of a plan, without its axis of steps; see the module.

    With a second table and plan under 'valid', the batch has a second batch there.
    """
    index = plan['index']
    images, labels = (
        table[key].at[index].get(mode='promise_in_bounds') for key in ('image', 'label')
    )
    if 'offset' in plan:
        images = crops(images, plan['offset'], pad, border)
    batch: Any = {'image': images, 'label': labels, 'mask': jnp.ones(index.shape, bool)}
    batch = lax.with_sharding_constraint(batch, sharding)
    if 'valid' in plan:
        batch['valid'] = planned_batch(table['valid'], plan['valid'], pad, border, sharding)
    return batch


def make_resident_steps(
    train_step: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]],
    pad: int,
    border: tuple[int, ...] | None,
    batch_sharding: NamedSharding,
) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
    """Returns train_steps(state, batch) -> (state, metrics), of `count` calls of `train_step`.

    Metrics are (K,), zeros after the first `count`. One program serves any number of steps; if K is
    1 it has no loop. The numbers are those of separate calls with batches of the host: an
    optimization barrier keeps the making of a batch out of the kernels of its step.
    """
    step = jax.jit(train_step, inline=True)  # traced once, for its shapes and for the loop

    def train_steps(state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        table, plan, count = batch['table'], batch['plan'], batch['count']

        def at(i: Any) -> Batch:
            row = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), plan)
            made = planned_batch(table, row, pad, border, batch_sharding)
            return lax.optimization_barrier(made)

        def body(i: jax.Array, carry: Any) -> Any:
            state, metrics = carry
            state, values = step(state, at(i))
            return state, jax.tree.map(lambda old, new: old.at[i].set(new), metrics, values)

        steps = len(plan['index'])
        if steps == 1:
            state, values = step(state, at(0))
            return state, jax.tree.map(lambda x: x[None], values)
        _, values = jax.eval_shape(lambda s: step(s, at(0)), state)
        metrics = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), values)
        return lax.fori_loop(0, count, body, (state, metrics))

    return train_steps

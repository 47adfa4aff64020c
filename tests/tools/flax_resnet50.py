"""A training step of ResNet-50 in plain Flax, for `compile_for --against`.

The network and the step of Flax's ImageNet example, restated: bfloat16, batch norm synchronized
over the devices, shard_map, SGD with Nesterov momentum, weight decay in the loss. Nothing of `cls`
is used.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = 'batch'
CLASSES = 1000
Conv = functools.partial(nn.Conv, use_bias=False, dtype=jnp.bfloat16)
Norm = functools.partial(
    nn.BatchNorm, use_running_average=False, momentum=0.9, dtype=jnp.bfloat16, axis_name=AXIS
)


class Block(nn.Module):
    features: int
    strides: int

    @nn.compact
    def __call__(self, x):
        strides = (self.strides, self.strides)
        y = nn.relu(Norm()(Conv(self.features, (1, 1))(x)))
        y = nn.relu(Norm()(Conv(self.features, (3, 3), strides)(y)))
        y = Norm(scale_init=nn.initializers.zeros)(Conv(4 * self.features, (1, 1))(y))
        if x.shape != y.shape:
            x = Norm()(Conv(4 * self.features, (1, 1), strides)(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(Norm()(Conv(64, (7, 7), (2, 2), padding=((3, 3), (3, 3)))(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), 'SAME')
        for stage, size in enumerate((3, 4, 6, 3)):
            for i in range(size):
                x = Block(64 * 2**stage, 2 if stage and i == 0 else 1)(x)
        x = nn.Dense(CLASSES, dtype=jnp.bfloat16)(jnp.mean(x, (1, 2)))
        return x.astype(jnp.float32)


def lower(devices, batch, pixels):
    """Returns the lowered step for a batch (on all devices) of square bfloat16 images."""
    model, optimizer = ResNet50(), optax.sgd(0.1, 0.9, nesterov=True)
    mesh = Mesh(np.asarray(devices), (AXIS,))

    def new_state():
        variables = model.init(jax.random.key(0), jnp.zeros((1, pixels, pixels, 3), jnp.bfloat16))
        return variables, optimizer.init(variables['params'])

    def step(variables, moments, images, labels):
        def loss_fn(params):
            all_variables = {**variables, 'params': params}
            logits, updated = model.apply(all_variables, images, mutable=['batch_stats'])
            targets = jax.nn.one_hot(labels, CLASSES)
            loss = optax.softmax_cross_entropy(logits, targets).mean()
            kernels = [w for w in jax.tree.leaves(params) if w.ndim > 1]
            return loss + 0.5e-4 * sum(jnp.sum(w**2) for w in kernels), (updated, logits)

        params = variables['params']
        (loss, (updated, logits)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        grads = jax.lax.pmean(grads, AXIS)
        updates, moments = optimizer.update(grads, moments, params)
        metrics = {'loss': loss, 'accuracy': jnp.mean(logits.argmax(-1) == labels)}
        variables = {**updated, 'params': optax.apply_updates(params, updates)}
        return variables, moments, jax.lax.pmean(metrics, AXIS)

    def sharded(tree, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    shard_map = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    state = jax.eval_shape(shard_map(new_state, in_specs=(), out_specs=P()))
    images = jax.ShapeDtypeStruct((batch, pixels, pixels, 3), jnp.bfloat16)
    data = (images, jax.ShapeDtypeStruct((batch,), jnp.int32))
    split = P(AXIS)
    mapped = shard_map(step, in_specs=(P(), P(), split, split), out_specs=(P(), P(), P()))
    return jax.jit(mapped, donate_argnums=(0, 1)).lower(*sharded(state, P()), *sharded(data, split))

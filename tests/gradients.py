"""The gradient of every parameter of a small net, for tests that nothing in it is unused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from compiling import FAST


def by_path(model: Any, variables: Any, size: int) -> dict[tuple[str, ...], np.ndarray]:
    """Returns path -> gradient of the sum of the squared logits of four random images, training.

    Args:
      model: a module of the registry without random drops.
      variables: its variables.
      size: of the images, of three channels.
    """
    images = np.random.default_rng(0).standard_normal((4, size, size, 3)).astype(np.float32)

    def loss(params, stats):
        values = {'params': params, 'batch_stats': stats}
        logits, _ = model.apply(values, images, train=True, mutable=['batch_stats'])
        return jnp.sum(jnp.square(logits))

    compiled = jax.jit(jax.grad(loss), compiler_options=FAST)
    found = jax.device_get(compiled(variables['params'], variables['batch_stats']))
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {tuple(entry.key for entry in path): gradient for path, gradient in leaves}

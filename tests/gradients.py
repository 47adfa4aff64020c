"""Gradients of all parameters of a small network, for tests that each parameter is used."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from compiling import FAST


def by_path(model: Any, variables: Any, size: int) -> dict[tuple[str, ...], np.ndarray]:
    """Returns path -> gradient of the sum of squared logits of four random training images.

    Args:
      model: A module of the registry without dropout.
      variables: The variables of the module.
      size: The size of the images; they have three channels.
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

"""The decay of the average of the weights."""

import jax
import jax.numpy as jnp

WARMUPS = ('tensorflow', 'timm', 'none')


def decay(most: float, warmup: str, every: int, step: jax.Array) -> jax.Array:
    """Returns the decay d of a step: average = d * average + (1 - d) * weights, float32.

    In the update t = 0, 1, ... of the average it is at most

    - tensorflow: (1 + t) / (10 + t), as tf.train.ExponentialMovingAverage with num_updates;
    - timm: 1 - (1 + t)^(-2/3), as its ModelEmaV3 with warm-up;
    - none: 0 in the first update, as torchvision and timm copy the weights then.

    Args:
      most: config.ema.
      warmup: one of WARMUPS.
      every: steps for each update; in the steps between, d is 1.
      step: the number of steps before this one.
    """
    update = step if every == 1 else (step + 1) // every - 1
    if warmup == 'tensorflow':
        value = jnp.minimum(most, (1.0 + update) / (10.0 + update))
    elif warmup == 'timm':
        value = jnp.minimum(most, 1.0 - (1.0 + update) ** (-2 / 3))
    else:
        value = jnp.where(update == 0, 0.0, most)
    return value if every == 1 else jnp.where((step + 1) % every == 0, value, 1.0)

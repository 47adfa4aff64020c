"""Several labels for an image: the metrics of a batch, and the evaluation step.

Labels are (N, K) uint8, 1 for each class of an image.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cls.nn import folding


def topk_hits(logits: jax.Array, targets: jax.Array, k: int) -> jax.Array:
    """Returns whether a class of each example is among the k largest logits, (N,) bool.

    Ties count against the example, as in `losses.topk_correct`. A row with a NaN is wrong, and so
    is an example without a class.

    Args:
      logits: (N, K), any floating-point type.
      targets: (N, K), at least 0.5 for each class of an example.
      k: at least 1.
    """
    logits = logits.astype(jnp.float32)
    is_label = targets >= 0.5
    own = jnp.max(jnp.where(is_label, logits, -jnp.inf), axis=-1, keepdims=True)
    rivals = jnp.sum((logits >= own) & ~is_label, axis=-1)
    decided = is_label.any(axis=-1) & ~jnp.isnan(logits).any(axis=-1)
    return decided & (rivals < k)


def make_eval_step(
    model: nn.Module, normalize: Callable[[jax.Array], jax.Array]
) -> Callable[[Any, Any], dict[str, jax.Array]]:
    """Returns eval_step(variables, batch) -> sums over the examples that are not masked.

    Sums are `top1` and `top5` (int32, examples with a class among the largest logits), `loss`
    (float32, the mean binary cross-entropy of the classes, in nats) and `count` (int32). The result
    also has `scores` (N, K) float32, the logits, and `labels` and `mask` of the batch.

    Args:
      model: a module.
      normalize: from pixels to the input of the model.
    """
    forward = folding.folded(functools.partial(model.apply, train=False))

    def eval_step(variables: Any, batch: Any) -> dict[str, jax.Array]:
        logits = forward(variables, normalize(batch['image'])).astype(jnp.float32)
        labels, mask = batch['label'], batch['mask']
        chex.assert_equal_shape((logits, labels))
        terms = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32))
        return {
            'top1': jnp.sum(topk_hits(logits, labels, 1) & mask),
            'top5': jnp.sum(topk_hits(logits, labels, 5) & mask),
            'loss': jnp.sum(jnp.where(mask, terms.mean(-1), 0.0)),
            'count': jnp.sum(mask),
            'scores': logits,
            'labels': labels,
            'mask': mask,
        }

    return eval_step

"""Loss and top-k correctness per example, computed in float32."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the softmax cross entropy in nats, (N,) float32.

    Args:
      logits: (N, K), any floating-point type.
      targets: probabilities (N, K), rows that sum to 1 (mixed labels, say), or labels (N,) of an
        integer type in 0..K-1. A label outside has no target: its loss is 0 without smoothing.
      label_smoothing: the fraction s of the target that is spread over all K classes, including the
        true one: targets * (1 - s) + s / K (Szegedy et al., 2016, section 7).
    """
    num_classes = logits.shape[-1]
    if targets.ndim == 1:
        targets = jax.nn.one_hot(targets, num_classes)
    targets = targets.astype(jnp.float32)
    targets = targets * (1.0 - label_smoothing) + label_smoothing / num_classes
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def topk_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Returns whether each label is among the k classes with the largest logits, (N,) bool.

    Ties count against the label: it is correct only if fewer than k other classes have logits at
    least as large, so a network with the same logit for all classes scores 0 (if K > k; with K <= k
    every label is in the top k). A row with a NaN is wrong, and so is a label outside 0..K-1.

    Args:
      logits: (N, K), any floating-point type.
      labels: (N,) of an integer type.
      k: at least 1.
    """
    logits = logits.astype(jnp.float32)
    is_label = labels[:, None] == jnp.arange(logits.shape[-1])
    own = jnp.max(jnp.where(is_label, logits, -jnp.inf), axis=-1, keepdims=True)
    rivals = jnp.sum((logits >= own) & ~is_label, axis=-1)
    decided = is_label.any(axis=-1) & ~jnp.isnan(logits).any(axis=-1)
    return decided & (rivals < k)

"""Rematerialization: the backward pass recomputes intermediate results, to save memory.

A training step keeps every intermediate result of the forward pass until the backward pass has
used it. If the forward pass is cut into pieces, only the arrays that cross a cut have to be kept;
each piece is computed a second time when the gradients arrive at its end (Chen et al. 2016,
1604.06174, "Training Deep Nets with Sublinear Memory Cost"). The pieces end

* `stage`: where the network sows the output of its stem or of a stage;
* `block`: also at the end of each block: a residual block, a cell, an inception module, a dense
  layer. A network without blocks, such as VGG, is cut only at its stages.

The unchanged network is traced, and its program (jaxpr) is cut instead of its modules: every array
that crosses a cut is kept, for example two between the cells of NASNet. So networks need no code
for this, and all random numbers, statistics and sown values come from a single trace. The savings
are measured with the TPU compiler (tests/steps/test_remat.py). The CPU compiler removes the
barriers between the first and the second computation, and with them part of the savings.

Two simpler ways save less. With `flax.linen.remat` around each block, the stem is kept, and the
stages of most networks are not modules. One `jax.checkpoint` around the network, with a policy that
saves the named ends, imposes no order: the compiler may recompute a block long before its gradients
arrive, and the TPU compiler does so.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from cls.errors import UserError, nearest
from cls.steps import traces

REMATS = ('', 'stage', 'block')


def check(remat: str) -> None:
    """Raises UserError unless config.remat is one of REMATS."""
    if remat not in REMATS:
        raise UserError(
            f"config.remat is {remat!r}: expected '', 'stage' or 'block'.{nearest(remat, REMATS)}"
        )


def apply(
    remat: str,
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    mutable: Sequence[str],
    **arrays: Any,
) -> tuple[jax.Array, Any]:
    """Returns the result of `model.apply` in training, with a gradient that recomputes its pieces.

    Args:
      remat: one of REMATS; '' is `model.apply` itself.
      model: a model of the registry.
      variables: the variables of the model.
      images: (N, H, W, C), normalized.
      mutable: collections to return.
      **arrays: `rngs`, and further arguments of the model, such as `progress`.
    """
    if not remat:
        return model.apply(variables, images, train=True, mutable=mutable, **arrays)
    traced = traces.trace(model, variables, images, mutable, remat, arrays)
    # The piece after the last cut would be recomputed immediately, which saves nothing.
    *pieces, last = traced.pieces(traced.cuts[:-1])
    *used, end = traces.used_after([*pieces, last], traced.results)
    values = traced.values()
    for piece, later in zip(pieces, used, strict=True):
        values.update(traced.evaluate(piece, values, later, jax.checkpoint))
    values.update(traced.evaluate(last, values, end))
    return traced.result(values)

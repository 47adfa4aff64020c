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

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.extend import core

from cls.errors import UserError, nearest

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
    captured = set(blocks(variables['params'])) if remat == 'block' else ()

    def forward(variables, images, arrays):
        result: Any = model.apply(
            variables,
            images,
            train=True,
            mutable=[*mutable, 'intermediates'],
            capture_intermediates=lambda module, _: module.path in captured,
            **arrays,
        )
        logits, updated = result
        ends = updated.pop('intermediates', {})
        ends.pop('pre_logits', None)
        return (logits, updated), ends

    arguments = (variables, images, arrays)
    closed, shapes = jax.make_jaxpr(forward, return_shape=True)(*arguments)
    results, ends = jax.tree.unflatten(jax.tree.structure(shapes), closed.jaxpr.outvars)
    results, tree = jax.tree.flatten(results)
    made = {out: i for i, eqn in enumerate(closed.eqns, 1) for out in eqn.outvars}
    cuts = sorted({made[end] for end in jax.tree.leaves(ends)})
    # The piece after the last cut would be recomputed immediately, which saves nothing.
    values = _in_pieces(closed, cuts[:-1], results, jax.tree.leaves(arguments))
    return jax.tree.unflatten(tree, values)


def blocks(params: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the paths of a network's blocks, by its parameters.

    A block is a module that contains two convolutions or more. A module that consists of such
    modules, such as a stage of residual blocks, is not a block itself.
    """
    for name, inside in params.items():
        if _convolutions(inside) < 2:
            continue
        if all(_convolutions(part) > 1 for part in inside.values()):
            yield from blocks(inside, (*path, name))
        else:
            yield (*path, name)


def _convolutions(params: Any) -> int:
    return sum(x.ndim == 4 for x in jax.tree.leaves(params))


def _in_pieces(
    closed: core.ClosedJaxpr, cuts: Sequence[int], results: Sequence[Any], arguments: Sequence[Any]
) -> list[Any]:
    """Evaluates a program piece by piece; gradients recompute all pieces except the last.

    Args:
      closed: the program.
      cuts: for each piece except the last, the number of equations up to its end, increasing.
      results: variables of the program, or literals, whose values are returned.
      arguments: the arguments of the program.
    """
    jaxpr = closed.jaxpr
    inputs = (*closed.consts, *arguments)
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True))
    pieces = [jaxpr.eqns[a:b] for a, b in itertools.pairwise((0, *cuts, None))]
    used = [{x for x in results if isinstance(x, core.Var)}]  # after each piece
    for piece in reversed(pieces[1:]):
        used.insert(0, used[0].union(_read(piece)))
    for number, (piece, later) in enumerate(zip(pieces, used, strict=True), 1):
        takes = [x for x in _read(piece) if x in values]
        gives = [x for eqn in piece for x in eqn.outvars if x in later]
        part = jaxpr.replace(constvars=(), invars=takes, outvars=gives, eqns=piece)
        compute = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))
        compute = compute if number == len(pieces) else jax.checkpoint(compute)
        values.update(zip(gives, compute(*(values[x] for x in takes)), strict=True))
    return [values[x] if isinstance(x, core.Var) else x.val for x in results]


def _read(equations: Sequence[core.JaxprEqn]) -> list[Any]:
    """Returns the distinct variables that equations read, in their order."""
    read = (x for eqn in equations for x in eqn.invars if isinstance(x, core.Var))
    return list(dict.fromkeys(read))

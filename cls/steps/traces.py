"""The program (jaxpr) of a network in training, cut where its blocks or stages end."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.extend import core

Piece = Sequence[core.JaxprEqn]


@dataclasses.dataclass(frozen=True)
class Traced:
    """The program of `model.apply` for given arguments."""

    closed: core.ClosedJaxpr
    cuts: list[int]  # numbers of equations up to the ends of blocks or stages, increasing
    results: list[Any]  # variables or literals
    tree: Any  # the structure of the results
    arguments: list[Any]  # values

    def pieces(self, cuts: Sequence[int] | None = None) -> list[Piece]:
        """Returns the equations between consecutive cuts, by default all of them."""
        cuts = self.cuts if cuts is None else cuts
        return [self.closed.eqns[a:b] for a, b in itertools.pairwise((0, *cuts, None))]

    def values(self) -> dict[Any, Any]:
        """Returns the values of the variables that are not computed."""
        jaxpr = self.closed.jaxpr
        inputs = (*self.closed.consts, *self.arguments)
        return dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True))

    def function(self, piece: Piece, takes: Sequence[Any], gives: Sequence[Any]) -> Callable:
        """Returns a piece as a function of the values of variables `takes`, to those of `gives`."""
        part = self.closed.jaxpr.replace(constvars=(), invars=takes, outvars=gives, eqns=piece)
        return core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))

    def evaluate(
        self,
        piece: Piece,
        values: Mapping[Any, Any],
        used: Collection[Any],
        transform: Callable[[Callable], Callable] = lambda compute: compute,
    ) -> dict[Any, Any]:
        """Returns the values that a piece computes and that are used later.

        The function of the piece is called after a `transform`, such as jax.checkpoint.
        """
        takes = [x for x in read(piece) if x in values]
        gives = [x for eqn in piece for x in eqn.outvars if x in used]
        compute = transform(self.function(piece, takes, gives))
        return dict(zip(gives, compute(*(values[x] for x in takes)), strict=True))

    def result(self, values: Mapping[Any, Any]) -> Any:
        """Returns the result of `model.apply`, given the values of all variables."""
        results = [values[x] if isinstance(x, core.Var) else x.val for x in self.results]
        return jax.tree.unflatten(self.tree, results)


def trace(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    mutable: Sequence[str],
    ends: str,
    arrays: Mapping[str, Any],
) -> Traced:
    """Returns the program of `model.apply` in training.

    Args:
      model: a model of the registry.
      variables: the variables of the model.
      images: (N, H, W, C), normalized.
      mutable: collections to return.
      ends: 'stage' or 'block', see cls.steps.remat.
      arrays: `rngs`, and further arguments of the model, such as `progress`.
    """
    captured = set(blocks(variables['params'])) if ends == 'block' else ()

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
    results, ends_made = jax.tree.unflatten(jax.tree.structure(shapes), closed.jaxpr.outvars)
    leaves, tree = jax.tree.flatten(results)
    made = {out: i for i, eqn in enumerate(closed.eqns, 1) for out in eqn.outvars}
    cuts = sorted({made[end] for end in jax.tree.leaves(ends_made)})
    return Traced(closed, cuts, leaves, tree, jax.tree.leaves(arguments))


def read(equations: Piece) -> list[Any]:
    """Returns the distinct variables that equations read, in their order."""
    variables = (x for eqn in equations for x in eqn.invars if isinstance(x, core.Var))
    return list(dict.fromkeys(variables))


def used_after(pieces: Sequence[Piece], results: Sequence[Any]) -> list[set[Any]]:
    """Returns, for each piece, the variables that later pieces or the results read."""
    used = [{x for x in results if isinstance(x, core.Var)}]
    for piece in reversed(pieces[1:]):
        used.insert(0, used[0].union(read(piece)))
    return used


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

"""Rematerialisation: memory for time. The backward pass computes anew what it has not kept.

A training step keeps every intermediate result of the forward pass until the backward pass has
used it. Cut into pieces, the forward pass need keep only what goes from one piece to a later one;
each piece is computed a second time when the gradients arrive at its end (Chen et al. 2016, 1604.06174,
"Training Deep Nets with Sublinear Memory Cost"). The pieces end

* `stage`: where the net sows the output of its stem or of a stage;
* `block`: where a block ends: a residual block, a cell, an inception module, a dense layer.

The net is traced as it is and its program (jaxpr) is cut, not its modules: whatever crosses a cut
is kept, be it one array or, as between the cells of NASNet, two. So nets need not know of this; all
random numbers, statistics and sown values are those of the one trace, computed once.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.extend import core

from cls.errors import UserError, nearest

REMATS = ('', 'stage', 'block')


def check(remat: str) -> None:
    """Raises UserError for what is not in REMATS."""
    if remat not in REMATS:
        raise UserError(
            f"config.remat is {remat!r}: expected '', 'stage' or 'block'.{nearest(remat, REMATS)}"
        )


def apply(
    remat: str, model: nn.Module, variables: Any, images: jax.Array, mutable: list[str], **arrays: Any
) -> tuple[jax.Array, Any]:
    """Returns `model.apply` of a training batch, its results to be computed anew by their gradient.

    Args:
      remat: one of REMATS; '' is `model.apply` itself.
      model: a net of the registry.
      variables: of the net.
      images: (N, H, W, C), normalised.
      mutable: collections that are returned.
      **arrays: `rngs` and `progress`, as the net takes them.

    Raises UserError where the net has nothing to cut.
    """
    if not remat:
        return model.apply(variables, images, train=True, mutable=mutable, **arrays)

    def forward(variables, images, arrays):
        calls = Calls()
        with nn.intercept_methods(calls.note):
            logits, updated = model.apply(
                variables, images, train=True, mutable=[*mutable, 'intermediates'], **arrays
            )
        sown = updated.pop('intermediates', {})
        stages = [value for name, value in sown.items() if name != 'pre_logits']
        ends = stages if remat == 'stage' else [block.outputs for block in blocks(calls.net)]
        return (logits, updated), ends

    arguments = (variables, images, arrays)
    program, (shapes, ends) = jax.make_jaxpr(forward, return_shape=True)(*arguments)
    outputs = jax.tree.structure(shapes)
    count = outputs.num_leaves
    # What follows the last cut is followed at once by its own gradient: there is nothing to gain.
    cuts = _places(program, program.jaxpr.outvars[count:])[:-1]
    if not cuts:
        raise UserError(
            f'config.remat is {remat!r}, but {type(model).__name__} has no two {remat}s to compute '
            f"one by one: choose {'block' if remat == 'stage' else 'stage'!r} or ''."
        )
    results = _in_pieces(program, cuts, program.jaxpr.outvars[:count], jax.tree.leaves(arguments))
    return jax.tree.unflatten(outputs, results)


def _places(program: core.ClosedJaxpr, ends: Sequence[Any]) -> list[int]:
    """Returns the numbers of equations after which the program has computed one of `ends`."""
    made = {out: i for i, eqn in enumerate(program.eqns, 1) for out in eqn.outvars}
    return sorted({made[end] for end in ends if isinstance(end, core.Var) and end in made})


def _in_pieces(
    program: core.ClosedJaxpr, cuts: Sequence[int], wanted: Sequence[Any], arguments: Sequence[Any]
) -> list[Any]:
    """Evaluates a program, all but the last of the pieces between cuts to be computed anew.

    Args:
      program: what is evaluated.
      cuts: numbers of equations after which a piece ends, growing.
      wanted: the variables of the program whose values are returned.
      arguments: of the program.
    """
    jaxpr = program.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*program.consts, *arguments), strict=True))
    pieces = [jaxpr.eqns[a:b] for a, b in itertools.pairwise((0, *cuts, len(jaxpr.eqns)))]
    used: list[set[Any]] = [{x for x in wanted if isinstance(x, core.Var)}]  # after each piece
    for piece in reversed(pieces[1:]):
        used.insert(0, used[0] | set(_read(piece)))
    for number, (piece, later) in enumerate(zip(pieces, used, strict=True), 1):
        takes = [x for x in _read(piece) if x in values]
        gives = [x for eqn in piece for x in eqn.outvars if x in later]
        part = jaxpr.replace(constvars=(), invars=takes, outvars=gives, eqns=piece)
        compute = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))
        compute = compute if number == len(pieces) else jax.checkpoint(compute)
        values.update(zip(gives, compute(*(values[x] for x in takes)), strict=True))
    return [values[x] if isinstance(x, core.Var) else x.val for x in wanted]


def _read(equations: Sequence[core.JaxprEqn]) -> list[Any]:
    """Returns the variables that equations read, each once, in their order."""
    read = (x for eqn in equations for x in eqn.invars if isinstance(x, core.Var))
    return list(dict.fromkeys(read))


@dataclasses.dataclass
class Call:
    """A call of a module, and those it made."""

    name: str
    kernels: int  # convolutions that the module has in it
    inputs: list[Any]  # arrays of its first argument
    outputs: list[Any]
    calls: list['Call']


class Calls:
    """Notes the calls of modules while a net is traced; `net` is that of the net itself."""

    def __init__(self):
        self.net: Call | None = None
        self._open: list[Call] = []

    def note(self, next_call, args, kwargs, context):
        """An interceptor of flax."""
        if context.method_name != '__call__':
            return next_call(*args, **kwargs)
        call = Call('/'.join(context.module.path), 0, jax.tree.leaves(args[:1]), [], [])
        if self._open:
            self._open[-1].calls.append(call)
        else:
            self.net = call
        self._open.append(call)
        result = next_call(*args, **kwargs)
        self._open.pop()
        call.outputs = jax.tree.leaves(result)
        params = jax.tree.leaves(context.module.variables.get('params', {}))
        call.kernels = sum(x.ndim == 4 for x in params)
        return result


def blocks(net: Call) -> list[Call]:
    """Returns the calls of a net's blocks, in order.

    A block is a module with two convolutions or more in it that is neither the net, nor a chain of
    blocks, nor a part of a block.
    """
    return [block for call in net.calls for block in _blocks(call)]


def _blocks(call: Call) -> list[Call]:
    if call.kernels < 2:
        return []
    return (blocks(call) if _is_chain(call) else []) or [call]


def _is_chain(call: Call) -> bool:
    """Whether a module only calls others, each on the result of the one before."""
    results = [call.inputs, *(part.outputs for part in call.calls)]
    taken = [*(part.inputs for part in call.calls), call.outputs]
    return all(
        len(result) == len(inputs) and all(x is y for x, y in zip(result, inputs, strict=True))
        for result, inputs in zip(results, taken, strict=True)
    )

"""Rematerialisation: memory for time. The backward pass computes anew what it has not kept.

A training step keeps every intermediate result of the forward pass until the backward pass has
used it. Cut into pieces, the forward pass need keep only what goes from one piece to a later one;
each piece is computed a second time when the gradients arrive at its end (Chen et al. 2016,
1604.06174, "Training Deep Nets with Sublinear Memory Cost"). The pieces end

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
import jax.numpy as jnp
from jax.extend import core

from cls.errors import UserError, nearest
from cls.models.registry import abstract_variables
from cls.nn.init import shapes_only

REMATS = ('', 'stage', 'block')


def check(remat: str, model: nn.Module, size: int, channels: int) -> None:
    """Raises UserError for what is not in REMATS, and where the net has nothing to cut.

    Args:
      remat: `config.remat`.
      model: a net of the registry.
      size: height and width of its images.
      channels: of its images.
    """
    if remat not in REMATS:
        raise UserError(
            f"config.remat is {remat!r}: expected '', 'stage' or 'block'.{nearest(remat, REMATS)}"
        )
    if not remat:
        return
    shape = (getattr(model, 'bn_group', 0) or 1, size, size, channels)
    with shapes_only():
        program = trace(
            remat,
            model,
            abstract_variables(model, size, channels),
            jax.ShapeDtypeStruct(shape, jnp.float32),
            ['batch_stats', 'aux_logits', 'penalties'],
            rngs={'dropout': jax.random.key(0)},
        )
    if not program.cuts:
        other = 'block' if remat == 'stage' else 'stage'
        raise UserError(
            f'config.remat is {remat!r}, but {type(model).__name__} has no two '
            f"{remat}s to be computed one by one: choose {other!r}, or '' to keep everything."
        )


def apply(
    remat: str,
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    mutable: Sequence[str],
    **arrays: Any,
) -> tuple[jax.Array, Any]:
    """Returns `model.apply` in training; what its gradient needs is computed anew as `remat` says.

    Args:
      remat: one of REMATS; '' is `model.apply` itself.
      model: a net of the registry.
      variables: of the net.
      images: (N, H, W, C), normalised.
      mutable: collections that are returned.
      **arrays: `rngs` and `progress`, as the net takes them.
    """
    if not remat:
        return model.apply(variables, images, train=True, mutable=mutable, **arrays)
    program = trace(remat, model, variables, images, mutable, **arrays)
    return program(variables, images, arrays)


@dataclasses.dataclass(frozen=True)
class Program:
    """A net's forward pass, and the places to cut it at.

    Called with its arguments it returns a tree of structure `tree`, all but the last of the pieces
    to be computed anew by their gradient. That one's gradient follows at once: nothing to gain.
    """

    closed: core.ClosedJaxpr
    tree: Any
    cuts: tuple[int, ...]  # numbers of equations after which a piece ends, growing

    def __call__(self, *arguments: Any) -> Any:
        """Returns the results for arguments as those that it was traced with."""
        results = _in_pieces(self, jax.tree.leaves(arguments))
        return jax.tree.unflatten(self.tree, results)


def trace(
    remat: str,
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    mutable: Sequence[str],
    **arrays: Any,
) -> Program:
    """Returns the program of `model.apply`, to be called as program(variables, images, arrays).

    The arguments are those of `apply`, or their shapes.
    """

    def forward(variables, images, arrays):
        calls = Calls()
        with nn.intercept_methods(calls.note):
            logits, updated = model.apply(
                variables, images, train=True, mutable=[*mutable, 'intermediates'], **arrays
            )
        sown = updated.pop('intermediates', {})
        if remat == 'stage':
            ends = [values for name, values in sown.items() if name != 'pre_logits']
        else:
            ends = [block.outputs for block in blocks(calls.net)]
        return (logits, updated), ends

    closed, shapes = jax.make_jaxpr(forward, return_shape=True)(variables, images, arrays)
    made = {out: i for i, eqn in enumerate(closed.eqns, 1) for out in eqn.outvars}
    _, ends = jax.tree.unflatten(jax.tree.structure(shapes), closed.jaxpr.outvars)
    places = sorted({max(made[part] for part in jax.tree.leaves(end)) for end in ends})
    return Program(closed, jax.tree.structure(shapes[0]), tuple(places[:-1]))


def _in_pieces(program: Program, arguments: Sequence[Any]) -> list[Any]:
    """Evaluates a program piece by piece and returns its results as a flat list."""
    jaxpr = program.closed.jaxpr
    wanted = jaxpr.outvars[: program.tree.num_leaves]
    given = (*program.closed.consts, *arguments)
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), given, strict=True))
    pieces = [jaxpr.eqns[a:b] for a, b in itertools.pairwise((0, *program.cuts, None))]
    used = [{x for x in wanted if isinstance(x, core.Var)}]  # after each piece
    for piece in reversed(pieces[1:]):
        used.insert(0, used[0].union(_read(piece)))
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

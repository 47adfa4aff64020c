"""The training state: all that a step updates and a checkpoint stores."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.extend import core

from cls.nn.cpu import threefry


class TrainState(struct.PyTreeNode):
    """The state of training. Every leaf is an array."""

    step: Any  # steps taken, int32
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any  # {'params': ..., 'batch_stats': ...}, averaged over steps; or None
    rng: Any  # key data, uint32; never changes: a step folds its number in

    def variables(self) -> dict[str, Any]:
        """Returns the variables for `model.apply`."""
        return {'params': self.params, 'batch_stats': self.batch_stats}

    def key(self) -> jax.Array:
        """Returns the key of the next step, for its augmentation, dropout and other randomness."""
        return jax.random.fold_in(threefry.wrapped(self.rng), self.step)


def new_state(
    variables: Any, optimizer: optax.GradientTransformation, seed: int, ema: bool
) -> TrainState:
    """Returns the state before the first step, in host memory.

    Averages are the variables themselves, and share their memory until they are on the devices.

    Args:
      variables: 'params' and, if the network has any, 'batch_stats', in host memory.
      optimizer: the update rule.
      seed: the seed of augmentation, dropout and all other randomness of a step.
      ema: whether to keep averages, which start at the variables.
    """
    opt_state = initial_opt_state(optimizer, variables['params'])
    return first_state(variables, opt_state, seed, dict(variables) if ema else None)


def initial_opt_state(optimizer: optax.GradientTransformation, params: Any) -> Any:
    """Returns `optimizer.init(params)` as NumPy arrays; constants and parameters compile nothing.

    Computed by JAX each constant would be a program for each shape. A constant array is a read-only
    view of one element, and takes no memory before it is on the devices; a copy of the parameters
    shares their memory until then. Any other state, as that of optimizers that take a norm of the
    first parameters, is computed by one program.

    Args:
      optimizer: an update rule.
      params: the parameters, or their shapes.

    Raises:
      NotImplementedError: the state depends on the values of the parameters, and these are shapes.
    """
    traced, shapes = jax.make_jaxpr(optimizer.init, return_shape=True)(params)
    leaves, structure = jax.tree.flatten(shapes)
    values = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))
    # Variables of parameters have an entry, None, only if their arrays are unknown.
    known = [x if isinstance(x, np.ndarray | jax.Array) else None for x in jax.tree.leaves(params)]
    values |= dict(zip(traced.jaxpr.invars, known, strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in traced.jaxpr.eqns:
        name = equation.primitive.name
        if name == 'broadcast_in_dim' and isinstance(equation.invars[0], core.Literal):
            values[equation.outvars[0]] = value(equation.invars[0])
        elif any(x is None for x in known):
            raise NotImplementedError(f'{name} in the initial state of an optimizer')
        else:
            return jax.device_get(jax.jit(optimizer.init)(params))
    numbers = [value(atom) for atom in traced.jaxpr.outvars]
    if any(number is None for number in numbers):
        raise NotImplementedError('parameters in the initial state of an optimizer')
    arrays = [
        np.broadcast_to(np.asarray(number, leaf.dtype), leaf.shape)
        for number, leaf in zip(numbers, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, arrays)


def first_state(variables: Any, opt_state: Any, seed: int, averages: Any = None) -> TrainState:
    """Returns the state before the first step, see `new_state`.

    Args:
      variables: 'params' and, if the network has any, 'batch_stats'.
      opt_state: the state of the optimizer.
      seed: the seed of all randomness of a step.
      averages: the initial averages, in the form of `variables`; None: no averages are kept.
    """
    return TrainState(
        step=np.zeros((), np.int32),
        params=variables['params'],
        batch_stats=variables.get('batch_stats', {}),
        opt_state=opt_state,
        ema=None if averages is None else _both(averages),
        rng=_key_data(seed),
    )


def _key_data(seed: int) -> np.ndarray:
    """Returns the data of `jax.random.key(seed)`, for JAX's usual generator without JAX.

    JAX would start XLA for it, which takes 45 MiB; an import needs it for nothing else.
    """
    usual = jax.config.jax_default_prng_impl == 'threefry2x32'  # pyright: ignore[reportAttributeAccessIssue]
    if usual and 0 <= seed < 2**32:
        return np.array([0, seed], np.uint32)
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def new_state_shapes(
    variables: Any, optimizer: optax.GradientTransformation, ema: bool
) -> TrainState:
    """Returns the shapes and dtypes of `new_state`'s result, given those of the variables."""
    return TrainState(
        step=jax.ShapeDtypeStruct((), np.int32),
        params=variables['params'],
        batch_stats=variables.get('batch_stats', {}),
        opt_state=jax.eval_shape(optimizer.init, variables['params']),
        ema=_both(variables) if ema else None,
        rng=jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))),
    )


def _both(variables: Any) -> dict[str, Any]:
    return {'params': variables['params'], 'batch_stats': variables.get('batch_stats', {})}


def abstract(state: Any, shardings: Any) -> Any:
    """Returns the shapes, dtypes and shardings of a tree."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=sharding),
        state,
        shardings,
    )

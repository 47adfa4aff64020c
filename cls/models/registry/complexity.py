"""Parameters and multiply-adds of a model, counted from its trace without compilation."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

from cls.nn.init import shapes_only


@dataclasses.dataclass(frozen=True)
class Complexity:
    """The cost of one image in evaluation, and so without auxiliary heads.

    `params` are the trainable parameters. `macs` are the multiply-adds of convolutions and matrix
    products, without biases, normalization, activations and pooling: the FLOPs or Mult-Adds of
    papers.
    """

    params: int
    macs: int


def complexity(model: nn.Module, input_size: int, channels: int = 3) -> Complexity:
    """Returns the cost of a model for one image of (input_size, input_size, channels)."""

    def evaluate(images):
        # Not `init`, which would create the parameters of auxiliary heads too.
        return model.apply({}, images, rngs={'params': jax.random.key(0)}, mutable=True)

    images = jax.ShapeDtypeStruct((1, input_size, input_size, channels), jnp.float32)
    with shapes_only():
        jaxpr, (_, variables) = jax.make_jaxpr(evaluate, return_shape=True)(images)
    params = sum(math.prod(p.shape) for p in jax.tree.leaves(variables['params']))
    return Complexity(params, _macs(jaxpr.jaxpr))


def _macs(jaxpr: core.Jaxpr) -> int:
    return sum(_equation_macs(equation) for equation in jaxpr.eqns)


def _equation_macs(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    output: Any = equation.outvars[0].aval if equation.outvars else None
    if name == 'conv_general_dilated':
        kernel: Any = equation.invars[1].aval
        out_channels = kernel.shape[params['dimension_numbers'].rhs_spec[0]]
        return output.size * kernel.size // out_channels
    if name == 'dot_general':
        (contracted, _), _ = params['dimension_numbers']
        left: Any = equation.invars[0].aval
        return output.size * math.prod(left.shape[axis] for axis in contracted)
    inner = [_macs(j) for j in core.jaxprs_in_params(params)]
    if name == 'scan':
        return params['length'] * sum(inner)
    if name in ('while', 'cond') and sum(inner):
        raise NotImplementedError(f'how often convolutions run in a {name} is not known')
    return sum(inner)

"""The optimizers of Optax by name, with the arguments of config.optim.args.

They are the functions of `optax` and `optax.contrib` that take a learning rate, and those named
scale_by_..., followed by it. A config file registers its own ones, of the same form:

    @optim.register('signs')
    def signs(learning_rate, b1=0.9): ...
"""

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from cls import registration
from cls.steps import signatures

# Optimizers that a training step cannot use, with the reason.
UNFIT = {
    'dpsgd': 'it needs the gradient of each example',
    'lbfgs': 'its line search computes the loss several times in a step',
    'noisy_sgd': 'it draws random numbers that do not depend on config.seed',
    'optimistic_adam': 'it takes no schedule; optimistic_adam_v2 does',
    'rprop': 'it takes no schedule',
    'scale_by_muon': 'it needs the shapes of matrices; muon has them',
    'scale_by_rprop': 'it takes no schedule',
    'scale_by_backtracking_linesearch': 'it computes the loss several times in a step',
    'scale_by_cocob': 'it is a part of cocob, with the sign of an update',
    'scale_by_zoom_linesearch': 'it computes the loss several times in a step',
    'schedule_free_adamw': 'it evaluates other weights than those that it trains',
    'schedule_free_sgd': 'it evaluates other weights than those that it trains',
    'sm3': 'it takes no schedule',
    'sophia': 'it needs second derivatives of the loss',
}
# Optimizers that depart from their papers or the authors' code; the run prints a line.
# tests/steps/test_optax_rules.py restates both forms; adan's is also
# https://github.com/google-deepmind/optax/pull/1715 (open).
DEPARTS = {
    'adan': (
        'the difference of two gradients counts with 1 - b2 (0.08 by default) where the authors '
        'have b2 (0.92), eps_root is also inside the root, and weight decay is lr * weight_decay '
        "* w in place of the paper's division by 1 + lr * weight_decay"
    ),
    'amsgrad': (
        'the maximum is of bias-corrected second moments, where the paper has no correction and '
        'PyTorch corrects the maximum; optim.args.bias_correction_mu=False and _nu=False give the '
        "paper's form"
    ),
    'lars': (
        'the trust ratio divides by |g + weight_decay * w| where the paper has |g| + weight_decay '
        '* |w|, and is 1, without trust_coefficient, for parameters that are zero'
    ),
    'muon': (
        'with nesterov the momentum and the gradient are corrected by different factors, so that '
        "the first tens of updates differ from the authors' code"
    ),
    'yogi': ('both moments start at 1e-6 and are bias-corrected, where the paper corrects neither'),
}
_MASKS = ('mask', 'weight_decay_mask', 'trust_ratio_mask')
# Parameters that other fields of a config determine.
ELSEWHERE = {
    'learning_rate': 'config.optim.lr',
    'weight_decay': 'config.optim.weight_decay',
    **dict.fromkeys(_MASKS, 'config.optim.decay_mask'),
}


Factory = Callable[..., optax.GradientTransformation]
_REGISTERED: dict[str, Factory] = {}


def register(name: str, taken: bool) -> Callable[[Factory], Factory]:
    """Returns a decorator that adds an optimizer, see `cls.steps.optim.register`."""

    def add(function: Factory) -> Factory:
        registration.claim('optimizer', name, taken or name in {*UNFIT, *factories()})
        _REGISTERED[name] = function
        return function

    return add


def factories() -> Mapping[str, Factory]:
    """Returns the functions that make an optimizer, by their names."""
    return {**_of_optax(), **_REGISTERED}


def label(name: str) -> str:
    """Returns the name of an optimizer in messages: 'optax.lion'."""
    return name if name in _REGISTERED else f'optax.{name}'


@functools.cache
def _of_optax() -> Mapping[str, Factory]:
    result = {}
    for module in (optax, optax.contrib):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith('_') or name in UNFIT or name in result:
                continue
            parameters = inspect.signature(function).parameters
            scales = 'learning_rate' in parameters or name.startswith('scale_by_')
            if scales and all(map(_is_settable, parameters.values())):
                result[name] = function
    return result


def _is_settable(parameter: inspect.Parameter) -> bool:
    """Whether a parameter has a default, another field of the config, or is a number."""
    has_default = parameter.default is not parameter.empty
    return has_default or parameter.name in ELSEWHERE or bool(signatures.kinds(parameter))


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(factories()[name]).parameters


def decays(name: str) -> bool:
    """Whether an optimizer has a weight decay of its own, outside the gradient."""
    return 'weight_decay' in _parameters(name) or name == 'muon'


def arguments(name: str) -> list[str]:
    """Returns the arguments of an optimizer that config.optim.args may set."""
    return signatures.settable(_parameters(name), ELSEWHERE)


def mistakes(name: str, args: Mapping[str, Any], weight_decay: float, mask: str) -> Iterator[str]:
    """Yields the mistakes in the arguments of an optimizer, each a sentence.

    Args:
      name: one of `factories`.
      args: config.optim.args.
      weight_decay: config.optim.weight_decay.
      mask: config.optim.decay_mask.
    """
    parameters = _parameters(name)
    yield from signatures.mistakes('config.optim.args', label(name), parameters, args, ELSEWHERE)
    masked = name == 'muon' or any(key in parameters for key in _MASKS)
    if weight_decay and decays(name) and not masked and mask != 'all':
        yield (
            f'config.optim.decay_mask is {mask!r}, but {label(name)} decays all parameters: set '
            'config.optim.decay_mask=all, or config.optim.weight_decay=0.'
        )


def failure(name: str, args: Mapping[str, Any]) -> str:
    """Returns a sentence if a step with an optimizer fails on the shapes of two layers, or ''."""
    params = {'kernel': jax.ShapeDtypeStruct((3, 3, 2, 4), jnp.float32)}
    params = {'a': params, 'b': {'bias': jax.ShapeDtypeStruct((4,), jnp.float32)}}

    def step(params: Any) -> Any:
        mask = jax.tree.map(lambda _: True, params)
        tx = make(name, args, lambda _: jnp.float32(0.1), 0.1, mask, params)
        state = tx.init(params)
        update = optax.with_extra_args_support(tx).update
        return state, update(params, state, params, value=jnp.float32(1.0))

    try:
        before, (_, after) = jax.eval_shape(step, params)
    except Exception as error:  # noqa: BLE001  of any kind, raised by Optax
        text = (str(error).splitlines() or [''])[0]
        return f'config.optim.args: {label(name)} takes no {dict(args)} ({text[:200]}).'
    if jax.tree.structure(before) != jax.tree.structure(after):
        return f'config.optim.name is {name!r}, whose state changes its structure in a step.'
    return ''


def make(
    name: str,
    args: Mapping[str, Any],
    learning_rate: optax.Schedule,
    weight_decay: float,
    mask: Any,
    params: Any,
    head: typing.AbstractSet[str] = frozenset(),
) -> optax.GradientTransformation:
    """Returns an optimizer of Optax.

    Args:
      name: one of `factories`.
      args: its arguments; all others have Optax's defaults.
      learning_rate: the schedule.
      weight_decay: of optimizers that `decays`; others take an L2 term in the gradient.
      mask: tree of booleans, True at parameters that decay; for lars also at those with a trust
        ratio.
      params: the parameters, or their shapes.
      head: paths of the head's parameters; muon leaves them to AdamW.
    """
    parameters, options = _parameters(name), dict(args)
    if name == 'muon':  # its own weight decay would leave out what it gives to AdamW
        options['muon_weight_dimension_numbers'] = _matrices(params, head)
        muon = optax.contrib.muon(learning_rate, **options)
        return optax.chain(muon, _decoupled(weight_decay, learning_rate, mask))
    options |= {key: mask for key in _MASKS if key in parameters}
    if 'weight_decay' in parameters:
        options['weight_decay'] = weight_decay
    if 'learning_rate' in parameters:
        return factories()[name](learning_rate, **options)
    return optax.chain(factories()[name](**options), optax.scale_by_learning_rate(learning_rate))


def _decoupled(
    weight_decay: float, learning_rate: optax.Schedule, mask: Any
) -> optax.GradientTransformation:
    """Returns a rule that subtracts learning_rate * weight_decay * w where the mask is True."""
    if not weight_decay:
        return optax.identity()
    return optax.add_decayed_weights(
        lambda step: jnp.multiply(learning_rate(step), -weight_decay), mask
    )


def _matrices(params: Any, head: typing.AbstractSet[str]) -> Any:
    """Returns the matrices that muon orthogonalizes, None for parameters that it does not.

    As in the authors' code a convolution is a matrix of all inputs of a filter by filters, and
    classifiers, biases and norms are not orthogonalized.
    """

    def matrix(path: Any, x: Any) -> Any:
        name = '/'.join(entry.key for entry in path)
        if path[-1].key != 'kernel' or name in head or x.ndim not in (2, 4):
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)

    return jax.tree.map_with_path(matrix, params)

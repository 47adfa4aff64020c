"""From config.schedule and config.optim to an Optax schedule and an Optax optimizer.

Each table below maps a name that a config may use to the function that makes the thing; the
functions take the config and nothing else that could differ between runs.
"""

import itertools
from collections.abc import Callable, Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cls.errors import UserError, nearest
from cls.steps import freeze

ToSteps = Callable[[str], int]  # a duration as text -> steps, see cls.config.durations


# ---------------------------------------------------------------------------- learning rates


def schedule(config: ConfigDict, lr: float, *, to_steps: ToSteps, total: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step: int or int array -> float32 scalar.

    The warm-up of W steps is linear: warmup_init at step 0, lr at step W. It replaces the first W
    steps of the schedule proper and does not shift the others: 'step' and 'exponential' count
    from step 0, so a boundary that falls into the warm-up has already acted when the warm-up
    ends (the rate jumps there from lr to the schedule's value). 'cosine' and 'polynomial', which
    run from one point to another, run from step W (lr) to step `total` (end * lr); the last step
    taken is total - 1, and later ones stay at end * lr. A run as long as its warm-up sees nothing
    but the warm-up.

    Args:
      config: config.schedule of cls/config/defaults.py.
      lr: the peak learning rate.
      to_steps: turns the config's durations into steps.
      total: steps in the run.

    Raises:
      UserError: the name is unknown, or a field does not suit the schedule.
    """
    make = _look_up(_SCHEDULES, config.name, 'config.schedule.name')
    warmup = to_steps(config.warmup)
    rule = make(config, lr, to_steps, warmup, total)
    ramp = optax.linear_schedule(config.warmup_init, lr, warmup)

    def rate(step):
        value = jnp.where(step < warmup, ramp(step), rule(step)) if warmup else rule(step)
        return jnp.asarray(value, jnp.float32)

    return rate


def check_warmup(config: ConfigDict, *, to_steps: ToSteps, total: int) -> None:
    """Raises UserError if the warm-up of config.schedule is longer than a run of `total` steps."""
    warmup = to_steps(config.warmup)
    if warmup > total:
        raise UserError(
            f'config.schedule.warmup is {config.warmup!r}, {warmup} steps, and the run has '
            f"{total}: expected at most as many, for example '5 percent'."
        )


def _constant(config, lr, to_steps, warmup, total):
    return optax.constant_schedule(lr)


def _step(config, lr, to_steps, warmup, total):
    """lr * factor ** (number of boundaries that are <= step)."""
    at = _boundaries(config, to_steps)
    return optax.piecewise_constant_schedule(lr, dict.fromkeys(at, config.gamma))


def _boundaries(config: ConfigDict, to_steps: ToSteps) -> list[int]:
    at = [to_steps(duration) for duration in config.milestones]
    if not at or any(later <= sooner for sooner, later in zip(at, at[1:], strict=False)):
        raise UserError(
            f'config.schedule.milestones is {tuple(config.milestones)}, in steps {tuple(at)}; '
            f'the schedule {config.name} needs one or more durations that grow, for example '
            "('30 epochs', '60 epochs')."
        )
    return at


def _exponential(config, lr, to_steps, warmup, total):
    """lr * factor ** (step / every), with the exponent rounded down if staircase.

    Not optax.exponential_decay: its staircase takes the floor of a float32 quotient, which XLA
    computes with a rounded reciprocal: under jit, with every = 41, the jump comes a step late.
    """
    factor, every = config.gamma, to_steps(config.every)
    if every < 1:
        raise UserError(
            f'config.schedule.every is {config.every!r}; write a duration above zero, '
            "for example '2.4 epochs'."
        )
    if config.staircase:
        return lambda step: lr * jnp.power(factor, jnp.asarray(step // every, jnp.float32))
    return lambda step: lr * jnp.power(factor, step / every)


def _cosine(config, lr, to_steps, warmup, total):
    """lr * (end + (1 - end) * (1 + cos(pi * t)) / 2), t from 0 to 1 (Loshchilov & Hutter, 2017)."""
    after = optax.cosine_decay_schedule(lr, max(total - warmup, 1), alpha=config.end)
    return lambda step: after(step - warmup)


def _cosine_restarts(config, lr, to_steps, warmup, total):
    """A cosine from the end of the warm-up to the first boundary, and one from each to the next.

    The one after k boundaries starts at lr * factor ** k (Loshchilov & Hutter, 2017).
    """
    at = _boundaries(config, to_steps)
    borders = [warmup, *at, total]
    cosines = [
        optax.cosine_decay_schedule(lr * config.gamma**k, max(end - start, 1), alpha=config.end)
        for k, (start, end) in enumerate(itertools.pairwise(borders))
    ]
    rule = optax.join_schedules(cosines, [border - warmup for border in at])
    return lambda step: rule(step - warmup)


def _polynomial(config, lr, to_steps, warmup, total):
    """lr * (end + (1 - end) * (1 - t) ** power), t from 0 to 1."""
    return optax.polynomial_schedule(
        lr, config.end * lr, config.power, max(total - warmup, 1), transition_begin=warmup
    )


_SCHEDULES = {
    'constant': _constant,
    'step': _step,
    'cosine': _cosine,
    'cosine_restarts': _cosine_restarts,
    'exponential': _exponential,
    'polynomial': _polynomial,
}


# -------------------------------------------------------------------------------- optimizers


def optimizer(
    config: ConfigDict,
    schedule: optax.Schedule,
    params: Any,
    *,
    head: Set[str] = frozenset(),
    depthwise: Set[str] = frozenset(),
) -> optax.GradientTransformation:
    """Returns the update rule; its update needs the parameters: tx.update(grads, state, params).

    In order: the gradient is clipped by its global norm; for sgd, rmsprop and adam the weights'
    L2 term, weight_decay * w, is added to it (the gradient of weight_decay / 2 * |w|^2); then comes
    the rule. With clip_after_decay the first two change places, as in TF-slim, where the L2 term
    is part of the loss. adamw and lamb decay the weights beside the gradient instead, scaled by
    the learning rate.

    What the rule gives is multiplied by body_lr_mult for all but the head, and by bias_lr_mult for
    the biases of convolutions and linear layers: a rate of its own for each parameter, as Caffe's
    lr_mult and PyTorch's groups. A parameter that `freeze` matches gets no update and has no state,
    and its gradient does not count into the clipped norm.

    The state holds arrays only, among them a count of the updates made, which the learning rate
    is read at: restored together with the parameters, it continues exactly.

    Args:
      config: config.optim of cls/config/defaults.py.
      schedule: the learning rate, from `schedule` above.
      params: the tree of parameters, or of their shapes (jax.eval_shape); only its structure and
        names are used, for the masks.
      head: paths of the head's parameters, see cls.models.registry.introspection; wanted for
      body_lr_mult. depthwise: paths of the depthwise kernels, see there; wanted for the mask
      not_depthwise.

    Raises:
      UserError: a name is unknown, or fields contradict each other.
    """
    make = _look_up(_COUPLED | _DECOUPLED, config.name, 'config.optim.name')
    decays = _look_up(_MASKS, config.decay_mask, 'config.optim.decay_mask')
    rule = _rule(config, schedule, make, decays(params, depthwise))
    if config.freeze:
        stays = freeze.frozen(config.freeze, params)
        labels = jax.tree.map(lambda stay: 'frozen' if stay else 'trained', stays)
        rule = optax.partition({'trained': rule, 'frozen': optax.set_to_zero()}, labels)
    if config.body_lr_mult != 1 or config.bias_lr_mult != 1:
        rule = optax.chain(rule, _multiplied(config, params, head))
    return rule


def _rule(config, schedule, make, mask):
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if config.name in _DECOUPLED:
        if config.clip_after_decay:
            raise UserError(
                f'config.optim.clip_after_decay is set, but {config.name} keeps weight decay out of'
                f' the gradient; unset it, or use one of {", ".join(_COUPLED)}.'
            )
        return optax.chain(clip, make(config, schedule, mask))
    decay = optax.add_decayed_weights(config.weight_decay, mask)
    before = (decay, clip) if config.clip_after_decay else (clip, decay)
    return optax.chain(*before, make(config, schedule))


def _multiplied(config, params, head):
    """Multiplies each update by what its parameter's learning rate is multiplied by."""
    beside_kernels = _with_kernels(params)

    def factor(path, beside):
        bias = beside and path[-1].key == 'bias'
        body = freeze.name(path) not in head
        return (config.bias_lr_mult if bias else 1.0) * (config.body_lr_mult if body else 1.0)

    factors = jax.tree.map_with_path(factor, beside_kernels)
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors))


def _sgd(config, lr):
    """v = momentum * v + g; w -= lr * v, or with Nesterov lr * (g + momentum * v).

    As in torch.optim.SGD: the learning rate is outside v, so a drop acts at once.
    """
    return optax.sgd(lr, config.momentum or None, config.nesterov)


def _rmsprop(config, lr):
    """s = decay * s + (1 - decay) * g^2; v = momentum * v + lr * g / sqrt(s + eps); w -= v.

    As in tf.train.RMSPropOptimizer: s starts at one, eps is inside the root, and v keeps the
    learning rates of the past.
    """
    return optax.rmsprop(
        lr,
        decay=config.decay,
        eps=config.eps,
        initial_scale=1.0,
        eps_in_sqrt=True,
        momentum=config.momentum or None,
    )


def _adam(config, lr):
    """Kingma & Ba (2015), algorithm 1; L2 is in the gradient, as in torch.optim.Adam."""
    return optax.adam(lr, config.b1, config.b2, config.eps)


def _adamw(config, lr, mask):
    """Loshchilov & Hutter (2019); the decay is lr * weight_decay * w, as in torch.optim.AdamW."""
    return optax.adamw(
        lr, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=mask
    )


def _lamb(config, lr, mask):
    """You et al. (2020), algorithm 2 with phi(z) = z; every leaf is a layer, masked or not.

    A leaf whose norm, or whose update's norm, is zero is not rescaled.
    """
    return optax.lamb(
        lr, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=mask
    )


_COUPLED = {'sgd': _sgd, 'rmsprop': _rmsprop, 'adam': _adam}
_DECOUPLED = {'adamw': _adamw, 'lamb': _lamb}


# ------------------------------------------------------------------------------ decay masks


def _kernels(params, depthwise):
    """True at leaves named 'kernel': not at biases, nor at scales and biases of norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], 'key', None) == 'kernel', params
    )


def _all(params, depthwise):
    return jax.tree.map(lambda _: True, params)


def _not_norms(params, depthwise):
    """True at kernels and their biases: not at norms, nor at the slopes of PReLU."""
    return _with_kernels(params)


def _not_depthwise(params, depthwise):
    """True at kernels but those of depthwise convolutions (Howard et al. 2017, section 3.1)."""
    return jax.tree.map_with_path(
        lambda path, _: path[-1].key == 'kernel' and freeze.name(path) not in depthwise, params
    )


def _with_kernels(params):
    """True at all parameters of modules that have a kernel."""
    here = 'kernel' in params
    return {
        key: _with_kernels(below) if isinstance(below, Mapping) else here
        for key, below in params.items()
    }


_MASKS = {
    'kernels': _kernels,
    'all': _all,
    'not_norms': _not_norms,
    'not_depthwise': _not_depthwise,
}


def _look_up(table: dict[str, Callable], name: str, field: str) -> Callable:
    """Returns table[name]; an unknown name is a UserError that lists the known ones."""
    if name not in table:
        known = ', '.join(table)
        raise UserError(f'{field} is {name!r}; known: {known}.{nearest(name, table)}')
    return table[name]

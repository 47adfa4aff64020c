"""Learning rates over the steps of a run: config.schedule as an Optax schedule."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cls.errors import UserError, nearest

_MOST_EPOCHS = 100_000  # of a schedule that changes by epochs: it lists them

PLATEAU = 'plateau'

ToSteps = Callable[[str], int]  # a duration as text -> steps, see cls.config.durations


@dataclasses.dataclass(frozen=True)
class ScheduleSpec:
    """The fields of config.schedule in steps, with the peak learning rate and length of the run.

    Attributes:
      name: one of SCHEDULES.
      lr: the peak learning rate.
      total: number of steps of the run.
      warmup: number of steps of the linear warm-up.
      warmup_init: learning rate at step 0 of the warm-up.
      milestones: increasing steps.
      gamma: factor of the learning rate at each milestone, or for each `every` steps.
      every: number of steps.
      staircase: whether 'exponential' decays in jumps.
      power: the exponent of 'polynomial'.
      end: the last learning rate as a fraction of `lr`.
      metric: of 'plateau', the value of the evaluations, see cls.steps.plateau.
      patience: of 'plateau', evaluations without an improvement.
      threshold: of 'plateau', the relative improvement that counts.
      epochs: the first step of each epoch, if the rate changes by epochs; () by steps.
    """

    name: str
    lr: float
    total: int
    warmup: int = 0
    warmup_init: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    every: int = 1
    staircase: bool = False
    power: float = 1.0
    end: float = 0.0
    metric: str = 'loss'
    patience: int = 10
    threshold: float = 1e-4
    epochs: tuple[int, ...] = ()

    @classmethod
    def from_config(cls, config: Any, *, to_steps: ToSteps, total: int) -> 'ScheduleSpec':
        """Reads config.schedule and config.optim.lr, for a run of `total` steps.

        Raises UserError for an unknown name, and for a field that does not fit the schedule.
        """
        fields = config.schedule
        name = check_name(config)
        plain = ('warmup_init', 'gamma', 'staircase', 'power', 'end')
        if name == PLATEAU:
            plain += ('metric', 'patience', 'threshold')
            _check_plateau(config)
        milestones = _milestones(fields, to_steps) if name in _WITH_MILESTONES else ()
        return cls(
            name,
            config.optim.lr,
            total,
            to_steps(fields.warmup),
            milestones=milestones,
            every=_every(fields, to_steps) if name == 'exponential' else 1,
            epochs=_epochs(to_steps, total) if fields.per == 'epoch' else (),
            **{field: getattr(fields, field) for field in plain},
        )


def check_name(config: Any) -> str:
    """Returns config.schedule.name. Raises UserError if no schedule has that name."""
    name = config.schedule.name
    if name not in SCHEDULES:
        raise UserError(
            f'config.schedule.name is {name!r}; known: {", ".join(SCHEDULES)}.'
            f'{nearest(name, SCHEDULES)}'
        )
    return name


def _check_plateau(config: Any) -> None:
    """Raises UserError for a rate that never falls, or that no evaluation decides."""
    if not config.eval.every:
        raise UserError(
            f"config.schedule.name is {PLATEAU!r}, and config.eval.every is '': expected a "
            "duration, as '1 epochs', for evaluations that the rate depends on."
        )
    if not 0 < config.schedule.gamma < 1:
        raise UserError(
            f'config.schedule.gamma is {config.schedule.gamma}: expected a factor between 0 and 1 '
            f'for the schedule {PLATEAU}.'
        )


def check_warmup(config: Any, schedule: ScheduleSpec) -> None:
    """Raises UserError if the warm-up of a config is longer than its run."""
    if schedule.warmup > schedule.total:
        raise UserError(
            f'config.schedule.warmup is {config.schedule.warmup!r}, {schedule.warmup} steps, '
            f"and the run has {schedule.total}: expected at most as many, for example '5 percent'."
        )


def make_schedule(spec: ScheduleSpec) -> Callable[[Any], jax.Array]:
    """Returns the learning rate as a function of the step: int or int array -> float32 scalar.

    The warm-up of W steps is linear: warmup_init at step 0, lr at step W. It replaces the first W
    steps of the schedule and does not shift the others: 'step' and 'exponential' count from step 0,
    so a milestone within the warm-up takes effect at its end, where the rate jumps from lr to the
    schedule's value. 'cosine' and 'polynomial' run from step W (lr) to step `total` (end * lr); the
    last step of training is total - 1, and later steps have end * lr. A run as long as its warm-up
    has no step after the warm-up.

    With `epochs` the rate of all steps of an epoch, also of the warm-up, is that of its first one,
    as in training loops that set the rate once in an epoch.
    """
    rule: Callable[[Any], Any] = SCHEDULES[spec.name](spec)
    ramp = optax.linear_schedule(spec.warmup_init, spec.lr, spec.warmup)

    def rate(step):
        value = rule(step)
        if spec.warmup:
            value = jnp.where(step < spec.warmup, ramp(step), value)
        return jnp.asarray(value, jnp.float32)

    if not spec.epochs:
        return rate
    starts = np.array(spec.epochs, np.int32)

    def of_epoch(step):
        epoch = jnp.searchsorted(jnp.asarray(starts), step, side='right') - 1
        return rate(jnp.asarray(starts)[epoch])

    return of_epoch


def _epochs(to_steps: ToSteps, total: int) -> tuple[int, ...]:
    """Returns the first step of each epoch of a run; epochs need not be whole steps."""
    starts = [0]
    if total > _MOST_EPOCHS * to_steps('1 epochs'):
        raise UserError(
            f"config.schedule.per is 'epoch', and the run has more than {_MOST_EPOCHS:,} epochs: "
            "expected fewer, or 'step'."
        )
    while starts[-1] < total:
        starts.append(max(to_steps(f'{len(starts)} epochs'), starts[-1] + 1))
    return tuple(starts)


def _milestones(fields: Any, to_steps: ToSteps) -> tuple[int, ...]:
    steps = tuple(to_steps(duration) for duration in fields.milestones)
    if not steps or any(later <= sooner for sooner, later in itertools.pairwise(steps)):
        raise UserError(
            f'config.schedule.milestones is {tuple(fields.milestones)}, in steps {steps}; the '
            f'schedule {fields.name} needs one or more durations that grow, for example '
            "('30 epochs', '60 epochs')."
        )
    return steps


def _every(fields: Any, to_steps: ToSteps) -> int:
    steps = to_steps(fields.every)
    if steps < 1:
        raise UserError(
            f'config.schedule.every is {fields.every!r}; write a duration above zero, '
            "for example '2.4 epochs'."
        )
    return steps


def _constant(spec: ScheduleSpec) -> optax.Schedule:
    return optax.constant_schedule(spec.lr)


def _step(spec: ScheduleSpec) -> optax.Schedule:
    """lr * gamma ** (number of milestones that are <= step)."""
    return optax.piecewise_constant_schedule(spec.lr, dict.fromkeys(spec.milestones, spec.gamma))


def _exponential(spec: ScheduleSpec) -> Callable[[Any], Any]:
    """lr * gamma ** (step / every), with the exponent rounded down if staircase.

    Not optax.exponential_decay: its staircase takes the floor of a float32 quotient, which XLA
    computes with a rounded reciprocal: under jit, with every = 41, the jump comes a step late.
    """
    lr, gamma, every = spec.lr, spec.gamma, spec.every
    if spec.staircase:
        return lambda step: lr * jnp.power(gamma, jnp.asarray(step // every, jnp.float32))  # pyright: ignore[reportOperatorIssue]
    return lambda step: lr * jnp.power(gamma, step / every)


def _cosine(spec: ScheduleSpec) -> optax.Schedule:
    """lr * (end + (1 - end) * (1 + cos(pi * t)) / 2), t from 0 to 1 (Loshchilov & Hutter, 2017)."""
    steps = max(spec.total - spec.warmup, 1)
    after = optax.cosine_decay_schedule(spec.lr, steps, alpha=spec.end)
    return lambda step: after(step - spec.warmup)


def _cosine_restarts(spec: ScheduleSpec) -> optax.Schedule:
    """A cosine from the end of the warm-up to the first milestone, and from each to the next.

    The cosine after k milestones starts at lr * gamma ** k (Loshchilov & Hutter, 2017).
    """
    borders = [spec.warmup, *spec.milestones, spec.total]
    cosines = [
        optax.cosine_decay_schedule(spec.lr * spec.gamma**k, max(end - start, 1), alpha=spec.end)
        for k, (start, end) in enumerate(itertools.pairwise(borders))
    ]
    rule = optax.join_schedules(cosines, [step - spec.warmup for step in spec.milestones])
    return lambda step: rule(step - spec.warmup)


def _polynomial(spec: ScheduleSpec) -> optax.Schedule:
    """lr * (end + (1 - end) * (1 - t) ** power), t from 0 to 1."""
    steps = max(spec.total - spec.warmup, 1)
    return optax.polynomial_schedule(
        spec.lr, spec.end * spec.lr, spec.power, steps, transition_begin=spec.warmup
    )


SCHEDULES = {
    'constant': _constant,
    PLATEAU: _constant,  # times a factor in the state of the optimizer, see cls.steps.plateau
    'step': _step,
    'cosine': _cosine,
    'cosine_restarts': _cosine_restarts,
    'exponential': _exponential,
    'polynomial': _polynomial,
}
_WITH_MILESTONES = ('step', 'cosine_restarts')

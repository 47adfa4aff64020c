"""The specification of the training loop: intervals of logs, evaluations, checkpoints, profiles."""

import dataclasses
from collections.abc import Callable
from typing import Any

from cls.errors import Mistakes, UserError
from cls.run.telemetry import profile_steps


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """Intervals of the training loop in steps, and the checkpoints to keep.

    Attributes:
      log_every: steps between log events.
      save_every: steps between checkpoints.
      eval_every: steps between evaluations; 0: only the end is evaluated.
      keep: number of checkpoints to keep.
      best: the metric of the best checkpoint, kept too; '': none.
      patience: evaluations without a better one that end the run; 0: none do.
      profile: (first step, step after the last), see telemetry.profile_steps.
    """

    log_every: int
    save_every: int
    eval_every: int
    keep: int
    profile: tuple[int, int]
    best: str = ''
    patience: int = 0

    @classmethod
    def from_config(cls, config: Any, *, to_steps: Callable[[str], int]) -> 'RunSpec':
        """Reads config.log_every, checkpoint, eval.every, eval.patience and profile.

        Raises UserError that lists all mistakes.
        """
        mistakes = Mistakes()

        def interval(name: str, duration: str) -> int:
            steps = to_steps(duration)
            if steps < 1:
                raise UserError(f'config.{name} is {duration!r}: expected at least one step.')
            return steps

        log_every = mistakes.attempt(interval, 'log_every', config.log_every)
        save_every = mistakes.attempt(interval, 'checkpoint.every', config.checkpoint.every)
        every = config.eval.every
        eval_every = mistakes.attempt(interval, 'eval.every', every) if every else 0
        profile = mistakes.attempt(profile_steps, config.profile)
        mistakes.refuse()
        keep, best = config.checkpoint.keep, config.checkpoint.best
        return cls(log_every, save_every, eval_every, keep, profile, best, config.eval.patience)

    def check_profile(self, text: str, total: int) -> None:
        """Raises UserError if a profile, config.profile, is beyond a run of `total` steps."""
        if self.profile[0] >= total:
            raise UserError(
                f'config.profile is {text!r}: expected steps of the {total} of the run.'
            )

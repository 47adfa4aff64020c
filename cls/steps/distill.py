"""Knowledge distillation: a student also learns the softened probabilities of a teacher."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.errors import refuse


@dataclasses.dataclass(frozen=True)
class DistillSpec:
    """The fields of config.distill; cls/config/defaults.py documents them."""

    teacher: str = ''
    temperature: float = 4.0
    weight: float = 0.5

    @classmethod
    def from_config(cls, config: Any) -> 'DistillSpec':
        """Reads config.distill. Raises UserError for fields that contradict others."""
        fields = config.distill
        refuse(_mistakes(config) if fields.teacher else ())
        return cls(fields.teacher, fields.temperature, fields.weight)


def _mistakes(config: Any) -> Iterator[str]:
    teacher = f'config.distill.teacher is {config.distill.teacher!r}, but'
    if config.data.contrast:
        yield (
            f'{teacher} config.data.contrast is {config.data.contrast!r}: a teacher takes the '
            "augmented pixels, and this loses them. Expected ''."
        )
    if config.data.multi_label:
        yield f'{teacher} config.data.multi_label is True: a teacher has one class for each image.'
    if 'supernet' in config.get('search', {}):
        yield f"{teacher} the training of a supernet has steps of its own: expected ''."


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The constants of a teacher; its variables are an argument of a step.

    Attributes:
      model: the module.
      normalize: from pixels in 0..255, float32, to its input.
      outputs: its outputs that are the classes of the student, in their order; (): all.
    """

    model: nn.Module
    normalize: Callable[[jax.Array], jax.Array]
    outputs: tuple[int, ...] = ()

    def logits(self, variables: Any, pixels: jax.Array) -> jax.Array:
        """Returns the logits of the student's classes, (N, K) float32; they have no gradient.

        Args:
          variables: {'params', 'batch_stats'}.
          pixels: (N, H, W, C) in 0..255, of any type.
        """
        images = self.normalize(pixels.astype(jnp.float32))
        logits: Any = self.model.apply(variables, images, train=False)
        if self.outputs:
            logits = logits[:, jnp.array(self.outputs)]
        return jax.lax.stop_gradient(logits.astype(jnp.float32))


def divergence(logits: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Returns T^2 * KL(teacher || student) of softened probabilities, (N,) float32, in nats.

    The factor keeps its gradient as large as that of the labels (Hinton et al. 2015, section 2).

    Args:
      logits: (N, K) of the student, any floating-point type.
      teacher: (N, K).
      temperature: T.
    """
    student = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    target = jax.nn.log_softmax(teacher / temperature)
    return temperature**2 * jnp.sum(jnp.exp(target) * (target - student), axis=-1)

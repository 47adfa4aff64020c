"""The teacher of a run, loaded from any place that `cls.load` takes.

May import: distributed, errors, inference, setup, steps.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax

from cls.distributed import agreement
from cls.errors import UserError
from cls.setup import Setup
from cls.steps import sharding as meshes
from cls.steps.distill import Teacher
from cls.steps.state import abstract
from cls.steps.train_step import normalize

if TYPE_CHECKING:
    from cls.inference.model import Model


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A teacher with its variables, replicated on the devices of a run."""

    teacher: Teacher
    variables: Any

    @property
    def shapes(self) -> Any:
        """The shapes, dtypes and shardings of the variables."""
        return abstract(self.variables, jax.tree.map(lambda x: x.sharding, self.variables))

    def bound(self, program: Any) -> Any:
        """Returns a program (state, batch, variables) as one of (state, batch)."""
        return lambda state, batch: program(state, batch, self.variables)


def load(setup: Setup) -> Loaded:
    """Returns the teacher of config.distill, and prints a line about it.

    Raises UserError if there is none there, its classes are not those of the run, or it does not
    take images of the size of the run's.
    """
    from cls.inference.loading import load as load_model  # few runs have a teacher

    model = load_model(setup.distill.teacher)
    outputs = _outputs(setup, model)
    prepared = model.preprocess
    options = {'mean': prepared.mean, 'std': prepared.std, 'contrast': prepared.contrast}
    teacher = Teacher(model.module, functools.partial(normalize, **options), outputs)
    variables = jax.device_get(model.variables)
    for size in sorted({size for _, size in setup.phases.sizes}):
        _check_input(setup, teacher, variables, size)
    replicated = meshes.replicated(setup.mesh)
    shardings = jax.tree.map(lambda _: replicated, variables)
    chosen = f', {len(outputs)} of its outputs by their names' if outputs else ''
    agreement.print_once(
        f'teacher: {model}{chosen}; weight {setup.distill.weight:g}, temperature '
        f'{setup.distill.temperature:g}'
    )
    return Loaded(teacher, meshes.put(variables, shardings))


def _outputs(setup: Setup, model: 'Model') -> tuple[int, ...]:
    """Returns the teacher's outputs for the classes of the run, () if they are all of them."""
    where, names = setup.distill.teacher, setup.info.class_names
    student: Any = setup.model
    count = student.num_classes
    if names and model.classes and names != model.classes:
        index = {name: i for i, name in enumerate(model.classes)}
        if missing := [name for name in names if name not in index]:
            raise UserError(
                f'config.distill.teacher is {where!r}, whose {len(model.classes)} classes, '
                f'{model.classes[0]} among them, have no {missing[0]!r}: expected a teacher with '
                f'all {len(names)} classes of the data set.'
            )
        if len(names) == count:
            return tuple(index[name] for name in names)
    if model.num_classes != count:
        raise UserError(
            f'config.distill.teacher is {where!r}, a network of {model.num_classes} classes: '
            f'expected {count}, as the network that is trained.'
        )
    return ()


def _check_input(setup: Setup, teacher: Teacher, variables: Any, size: int) -> None:
    """Raises UserError if a teacher cannot take the images of a run."""
    shape = (1, size, size, setup.info.image_shape[2])
    try:
        jax.eval_shape(teacher.logits, variables, jax.ShapeDtypeStruct(shape, 'uint8'))
    except Exception as error:  # of any kind, raised by a module
        text = (str(error).splitlines() or [''])[0][:200]
        raise UserError(
            f'config.distill.teacher is {setup.distill.teacher!r}, which does not take images of '
            f'{size} x {size} x {shape[3]} ({text}): expected a teacher for images like those of '
            'the run.'
        ) from error


def teacher_of(setup: Setup) -> Loaded | None:
    """Returns the teacher of a run, None without one. Raises as `load` does."""
    return load(setup) if setup.distill.teacher else None

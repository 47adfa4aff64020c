"""The recipe nearest to a run's config."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe, and the differences of a run from it.

    Attributes:
      spec: the value of --config, as 'resnet:cifar10'.
      about: a line about the arm.
      name: the name of its file.
      text: the content of its file, with the sections of the papers.
      differences: (field, value in the recipe, value in the run) of those that determine the
        training.
    """

    spec: str
    about: str
    name: str
    text: str
    differences: Sequence[tuple[str, str, str]]

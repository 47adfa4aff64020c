"""What golden/make.py is asked to make; the lists of tasks are in tests/systems/."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Task:
    """A golden row to be made: `package:constructor`, on `count` images of `size` pixels.

    `build` makes the module where the package has no constructor of that name (or not in the form
    that is wanted). `fields` make a net smaller than the registered variant; restated nets take
    them, and packages' where `build` does.
    """

    reference: str
    size: int = 64
    count: int = 2
    channels: int = 3
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    build: Callable[..., Any] | None = None

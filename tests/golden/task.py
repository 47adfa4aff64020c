"""The specification of a golden row, for golden/make.py; the tasks are in tests/systems/."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Task:
    """A golden row: the logits of `package:constructor` on `count` images of `size` pixels.

    `build` returns the module if the package has no constructor of that name (or one of another
    form). `fields` make a network smaller than the registered variant; restated networks accept
    them, and packages' networks if `build` does.
    """

    reference: str
    size: int = 64
    count: int = 2
    channels: int = 3
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    build: Callable[..., Any] | None = None

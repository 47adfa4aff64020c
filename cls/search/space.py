"""Search spaces: architectures as sequences of decisions.

A space defines the number of choices of the next decision. Random codes, their count and their
checks follow from it; a paper's own mutation, crossover or order of growth is in its space.
"""

import abc
import math
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

Code = tuple[int, ...]  # a choice for each decision, from 0
Rng = np.random.Generator


class Space(abc.ABC):
    """A search space, whose architectures have codes.

    `mutate`, `crossover`, `neighbors` and `expand` are optional, see `offers`: only some searchers
    need them.
    """

    @abc.abstractmethod
    def choices(self, prefix: Code) -> int:
        """Returns the number of choices after these decisions; 0: the code is complete."""

    @abc.abstractmethod
    def genotype(self, code: Code) -> Any:
        """Returns the genotype of a code, as the field `genotype` of its network takes it."""

    @abc.abstractmethod
    def code(self, genotype: Any) -> Code:
        """Returns a code of a genotype. Raises ValueError for a genotype outside the space."""

    def key(self, code: Code) -> Hashable:
        """Returns a key that codes share if they are known to be the same network."""
        return code

    def measures(self, code: Code) -> dict[str, float]:
        """Returns further metrics for objectives, those without training."""
        return {}

    def state(self, prefix: Code) -> Hashable:
        """Returns the part of the decisions so far on which the value of the next one depends."""
        return prefix

    def sample(self, rng: Rng) -> Code:
        """Returns a random code, each decision uniform."""
        code: Code = ()
        while count := self.choices(code):
            code += (int(rng.integers(count)),)
        return code

    def mutate(self, code: Code, rng: Rng) -> Code:
        """Returns a mutated code, by the mutation of the space's paper."""
        raise NotImplementedError

    def crossover(self, one: Code, other: Code, rate: float, rng: Rng) -> tuple[Code, Code]:
        """Returns two codes after they exchange parts, each part with probability `rate`."""
        raise NotImplementedError

    def neighbors(self, code: Code) -> Iterator[Code]:
        """Yields the codes one step away."""
        raise NotImplementedError

    def expand(self, code: Code) -> Iterator[Code]:
        """Yields the codes that are one part larger; for (), the smallest codes."""
        raise NotImplementedError

    def offers(self, ability: str) -> bool:
        """Whether the space has an optional method."""
        return getattr(type(self), ability, None) is not getattr(Space, ability, None)

    def check(self, code: Code) -> None:
        """Raises ValueError for anything but a complete code of the space."""
        for i, choice in enumerate(code):
            if not 0 <= choice < self.choices(code[:i]):
                raise ValueError(
                    f'decision {i} of {code} is {choice}: there are {self.choices(code[:i])} '
                    'choices, from 0'
                )
        if left := self.choices(code):
            raise ValueError(f'{code} is not complete: the next decision has {left} choices')

    def codes(self, prefix: Code = ()) -> Iterator[Code]:
        """Yields all codes with a prefix; only small spaces have few enough."""
        count = self.choices(prefix)
        if count == 0:
            yield prefix
        for choice in range(count):
            yield from self.codes((*prefix, choice))


class Fixed(Space):
    """A space whose codes all have the same decisions.

    Mutation redraws one decision among its other choices; crossover exchanges stages. Decisions
    with one choice are never redrawn.
    """

    @property
    @abc.abstractmethod
    def counts(self) -> tuple[int, ...]:
        """The number of choices of each decision."""

    def choices(self, prefix: Code) -> int:
        return self.counts[len(prefix)] if len(prefix) < len(self.counts) else 0

    @property
    def stages(self) -> tuple[int, ...]:
        """The lengths of the runs of decisions that crossover exchanges as a whole, here 1."""
        return (1,) * len(self.counts)

    @property
    def size(self) -> int:
        """The number of codes."""
        return math.prod(self.counts)

    def mutate(self, code: Code, rng: Rng) -> Code:
        free = [i for i, count in enumerate(self.counts) if count > 1]
        return self.redrawn(code, int(rng.choice(free)), rng)

    def redrawn(self, code: Code, decision: int, rng: Rng) -> Code:
        """Returns the code with another choice for one decision."""
        choice = int(rng.integers(self.counts[decision] - 1))
        choice += choice >= code[decision]
        return (*code[:decision], choice, *code[decision + 1 :])

    def crossover(self, one: Code, other: Code, rate: float, rng: Rng) -> tuple[Code, Code]:
        swaps = np.repeat(rng.random(len(self.stages)) < rate, self.stages)
        pairs = [(b, a) if swap else (a, b) for a, b, swap in zip(one, other, swaps, strict=True)]
        first, second = zip(*pairs, strict=True)
        return first, second

    def neighbors(self, code: Code) -> Iterator[Code]:
        for decision, count in enumerate(self.counts):
            for choice in range(count):
                if choice != code[decision]:
                    yield (*code[:decision], choice, *code[decision + 1 :])

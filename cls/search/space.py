"""What a search space is: architectures as sequences of decisions.

A space says how many choices the next decision has. From this alone follow random codes, their
count and checks; a paper's own mutation, crossover or order of growth stands in its space.
"""

import abc
import math
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

Code = tuple[int, ...]  # a decision each, from 0
Rng = np.random.Generator


class Space(abc.ABC):
    """Architectures as codes.

    What only some searchers ask for (`mutate`, `crossover`, `neighbours`, `expand`) a space may
    lack: see `offers`.
    """

    @abc.abstractmethod
    def choices(self, prefix: Code) -> int:
        """Returns how many choices there are after these decisions; 0: the code is complete."""

    @abc.abstractmethod
    def genotype(self, code: Code) -> Any:
        """Returns what the net of a code is built from, as its field `genotype` has it."""

    @abc.abstractmethod
    def code(self, genotype: Any) -> Code:
        """Returns a code of a genotype. Raises ValueError for one that is not in the space."""

    def key(self, code: Code) -> Hashable:
        """Returns the same for codes of which it is known that they are the same net."""
        return code

    def measures(self, code: Code) -> dict[str, float]:
        """Returns what objectives may ask of a code that need not be trained: more metrics."""
        return {}

    def state(self, prefix: Code) -> Hashable:
        """Returns what of the decisions so far the value of the next one depends on."""
        return prefix

    def sample(self, rng: Rng) -> Code:
        """Returns a random code, each decision drawn evenly."""
        code: Code = ()
        while count := self.choices(code):
            code += (int(rng.integers(count)),)
        return code

    def mutate(self, code: Code, rng: Rng) -> Code:
        """Returns a code changed as the paper of the space does it."""
        raise NotImplementedError

    def crossover(self, one: Code, other: Code, rate: float, rng: Rng) -> tuple[Code, Code]:
        """Returns two codes after the exchange of parts, each with a probability `rate`."""
        raise NotImplementedError

    def neighbours(self, code: Code) -> Iterator[Code]:
        """Yields the codes that are one step away."""
        raise NotImplementedError

    def expand(self, code: Code) -> Iterator[Code]:
        """Yields the codes, of () the smallest, that are one part larger; of the largest, none."""
        raise NotImplementedError

    def offers(self, ability: str) -> bool:
        """Whether the space has one of the methods that not all have."""
        return getattr(type(self), ability, None) is not getattr(Space, ability, None)

    def check(self, code: Code) -> None:
        """Raises ValueError for what is no complete code of the space."""
        for i, choice in enumerate(code):
            if not 0 <= choice < self.choices(code[:i]):
                raise ValueError(
                    f'decision {i} of {code} is {choice}: there are {self.choices(code[:i])} '
                    'choices, from 0'
                )
        if left := self.choices(code):
            raise ValueError(f'{code} is not complete: the next decision has {left} choices')

    def codes(self, prefix: Code = ()) -> Iterator[Code]:
        """Yields all codes that begin so; only of small spaces they come to an end."""
        count = self.choices(prefix)
        if count == 0:
            yield prefix
        for choice in range(count):
            yield from self.codes((*prefix, choice))


class Fixed(Space):
    """A space of as many decisions for all codes, whatever was decided before.

    Mutation draws one decision anew among its other choices; crossover exchanges stages. Decisions
    with one choice are never drawn.
    """

    @property
    @abc.abstractmethod
    def counts(self) -> tuple[int, ...]:
        """The number of choices of each decision."""

    def choices(self, prefix: Code) -> int:
        return self.counts[len(prefix)] if len(prefix) < len(self.counts) else 0

    @property
    def stages(self) -> tuple[int, ...]:
        """Lengths of the runs of decisions that crossover exchanges together: each by itself."""
        return (1,) * len(self.counts)

    @property
    def size(self) -> int:
        """The number of codes."""
        return math.prod(self.counts)

    def mutate(self, code: Code, rng: Rng) -> Code:
        free = [i for i, count in enumerate(self.counts) if count > 1]
        return self.redrawn(code, int(rng.choice(free)), rng)

    def redrawn(self, code: Code, place: int, rng: Rng) -> Code:
        """Returns the code with another choice at a place."""
        choice = int(rng.integers(self.counts[place] - 1))
        choice += choice >= code[place]
        return (*code[:place], choice, *code[place + 1 :])

    def crossover(self, one: Code, other: Code, rate: float, rng: Rng) -> tuple[Code, Code]:
        swaps = np.repeat(rng.random(len(self.stages)) < rate, self.stages)
        pairs = [(b, a) if swap else (a, b) for a, b, swap in zip(one, other, swaps, strict=True)]
        first, second = zip(*pairs, strict=True)
        return first, second

    def neighbours(self, code: Code) -> Iterator[Code]:
        for place, count in enumerate(self.counts):
            for choice in range(count):
                if choice != code[place]:
                    yield (*code[:place], choice, *code[place + 1 :])

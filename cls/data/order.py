"""The order of examples and the random numbers of their crops.

Both are functions of the seed and the position in the endless sequence of examples. Global batch s
has the positions s*batch to (s+1)*batch.
"""

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from cls.data.shared import SharedArray

# Each purpose has its own stream of random numbers from the same seed.
ORDER, CROP, CLASSES, IN_CLASS, VALIDATION = 0, 1, 2, 3, 4
_BLOCK = 2**17  # labels that are sorted together


def positions(step: int, batch: int, process: tuple[int, int]) -> np.ndarray:
    """Returns (n,) int64, the positions of a global batch that belong to process (index, count)."""
    index, count = process
    share = batch // count
    return step * batch + index * share + np.arange(share)


def shuffled(at: np.ndarray, length: int, seed: int) -> np.ndarray:
    """Returns the examples at these positions, (n,) int64 in range(length).

    Each epoch of `length` positions has every example exactly once, in a new order.
    """
    epochs, offsets = np.divmod(at, length)
    indices = np.empty_like(at)
    for epoch in np.unique(epochs):
        in_epoch = epochs == epoch
        indices[in_epoch] = _permutations(length, seed, ORDER)(int(epoch))[offsets[in_epoch]]
    return indices


@functools.lru_cache(maxsize=64)  # a process may train many seeds at a time
def _permutations(length: int, seed: int, purpose: int) -> Callable[[int], np.ndarray]:
    """Returns permutation(epoch). It keeps two: a batch may straddle two epochs."""
    permuted = functools.partial(_permuted, length, key(seed, purpose))
    return functools.lru_cache(maxsize=2)(permuted)


def _permuted(length: int, stream: np.ndarray, *counter: int) -> np.ndarray:
    # NumPy guarantees stable streams for its bit generators, but not for Generator.permutation.
    bits = np.random.Philox(key=stream, counter=[0, *counter, *(2 - len(counter)) * [0], 0])
    order = np.argsort(bits.random_raw(length), kind='stable')
    return order.astype(np.min_scalar_type(length))  # kept for an epoch, in every worker


def repeated(at: np.ndarray, batch: int, repeats: int) -> np.ndarray:
    """Returns positions in the order of examples such that each example comes `repeats` times.

    Repeated augmentation (Hoffer et al., arXiv 1901.09335): a global batch has batch/repeats
    examples, each with `repeats` crops. A crop is a function of its own position. The copies of an
    example are batch/repeats rows apart, so that the parts of a batch that share batch statistics
    have few copies of the same example. timm's sampler starts a new permutation after as many draws
    as the set has examples; here a permutation is used up before the next one begins.
    """
    step, row = np.divmod(at, batch)
    return step * (batch // repeats) + row % (batch // repeats)


class Balanced:
    """An order in which all classes come equally often, whatever their numbers of examples.

    Each run of K positions, for K classes with examples, has one example of each class, in a new
    order of the classes. The examples of a class come in permutations: each comes once before any
    is repeated. `len(source)` positions still count as an epoch.
    """

    def __init__(self, labels: np.ndarray, seed: int):
        by_class, self._starts = sorted_by_class(labels)
        self._examples = SharedArray(by_class)
        self._seed, self._within = seed, key(seed, IN_CLASS)
        self._kept: dict[int, tuple[int, np.ndarray]] = {}  # by class: its last permutation

    def __call__(self, at: np.ndarray) -> np.ndarray:
        """Returns the examples at these positions, (n,) int64."""
        count = len(self._starts) - 1
        chosen = [
            self._example(int(_permutations(count, self._seed, CLASSES)(turn)[place]), turn)
            for turn, place in zip((at // count).tolist(), (at % count).tolist(), strict=True)
        ]
        return np.array(chosen, np.int64)

    def _example(self, index: int, turn: int) -> int:
        start, stop = self._starts[index : index + 2].tolist()
        epoch, offset = divmod(turn, stop - start)
        kept, order = self._kept.get(index, (-1, None))
        if order is None or kept != epoch:
            order = _permuted(stop - start, self._within, epoch, index)
            self._kept[index] = epoch, order  # one tuple: other threads may read it meanwhile
        return int(self._examples.values[start + int(order[offset])])


def sorted_by_class(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the examples sorted by label, and where each label that occurs begins.

    Args:
      labels: (N,) integers.

    Returns:
      ((N,) unsigned integers, the examples of a label in their order; (K + 1,) int64, the begins
      of K labels, in ascending order, and N).
    """
    low = labels.min()
    bits = (int(labels.max()) - int(low)).bit_length()
    # NumPy sorts integers of 16 bits by radix, in linear time: first the lower half of the labels.
    examples, counts = _distributed(None, labels, low, 0)
    for shift in range(16, bits, 16):
        examples, _ = _distributed(examples, labels, low, shift)
    if bits <= 16:
        starts = [(np.cumsum(counts) - counts)[counts > 0]]
    else:
        ordered = labels[examples]
        starts = [np.zeros(1, np.int64), np.flatnonzero(ordered[1:] != ordered[:-1]) + 1]
    return examples, np.concatenate([*starts, [len(labels)]])


def _distributed(
    examples: np.ndarray | None, labels: np.ndarray, low: np.integer, shift: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns examples sorted by 16 bits of their labels, and the number of examples of each value.

    Blocks are sorted one after the other: a sort of all takes sixteen bytes an example, and most of
    its time goes into memory that is new to the process.

    Args:
      examples: (N,) integers; those of the same value stay in this order. None: all in order.
      labels: (N,) integers.
      low: the smallest label, that is subtracted.
      shift: the lower bits to leave out.
    """

    def digits(at: slice) -> np.ndarray:
        of = labels[at] if examples is None else labels[examples[at]]
        return ((of - low) >> shift).astype(np.uint16)

    count = len(labels)
    blocks = [slice(first, first + _BLOCK) for first in range(0, count, _BLOCK)]
    totals = sum(np.bincount(digits(at), minlength=2**16) for at in blocks)
    begins, result = np.cumsum(totals) - totals, np.empty(count, np.min_scalar_type(count))
    for at in blocks:
        of = digits(at)
        order, counts = np.argsort(of, kind='stable'), np.bincount(of, minlength=2**16)
        before = np.cumsum(counts) - counts
        rows = order + at.start
        places = np.arange(len(of)) + np.repeat(begins - before, counts)
        result[places] = rows if examples is None else examples[rows]
        begins += counts
    return result, np.asarray(totals)


def key(seed: int, purpose: int) -> np.ndarray:
    """Returns the key (2,) uint64 of a stream of random numbers of a seed."""
    return np.random.SeedSequence((seed, purpose)).generate_state(2, np.uint64)


class Draws:
    """The random numbers of one position, with the interface of a NumPy Generator.

    Making a Generator for each image would take longer than drawing a crop, and hold Python's lock.
    So `draws` makes the first numbers for a whole batch together; they nearly always suffice.
    """

    def __init__(self, first: list[float], stream: np.ndarray, position: int):
        self._numbers = itertools.chain(first, _more(stream, position))

    def uniform(self, low: float, high: float) -> float:
        """Returns a number in [low, high)."""
        return low + (high - low) * next(self._numbers)

    def integers(self, low: int, high: int | None = None) -> int:
        """Returns one of low..high-1, or one of 0..low-1 without `high`."""
        low, high = (0, low) if high is None else (low, high)
        return low + int((high - low) * next(self._numbers))


_BLOCKS = 4  # blocks of four numbers that are made for each position in advance


def _more(stream: np.ndarray, position: int) -> Iterator[float]:
    generator = np.random.Generator(np.random.Philox(key=stream, counter=[0, 0, position, 1]))
    while True:
        yield float(generator.random())


def draws(stream: np.ndarray, at: np.ndarray) -> list[Draws]:
    """Returns the random numbers of consecutive positions, each a function of its position."""
    bits = np.random.Philox(key=stream, counter=[int(at[0]) * _BLOCKS, 0, 0, 0])
    raw = bits.random_raw(4 * _BLOCKS * len(at)) >> np.uint64(11)
    numbers = (raw * 2.0**-53).reshape(len(at), -1).tolist()
    return [Draws(row, stream, p) for row, p in zip(numbers, at.tolist(), strict=True)]


def pad_offsets(stream: np.ndarray, at: np.ndarray, pad: int) -> np.ndarray:
    """Returns (n, 2) in 0..2*pad, a function of stream and position; positions are consecutive.

    The position is the counter of Philox, with four numbers for each value. So one generator serves
    all positions; a generator for each would cost more than the crops.
    """
    bits = np.random.Philox(key=stream, counter=[int(at[0]), 0, 0, 0])
    drawn = bits.random_raw(4 * len(at)).reshape(len(at), 4)
    return (drawn[:, :2] % np.uint64(2 * pad + 1)).astype(np.int64)

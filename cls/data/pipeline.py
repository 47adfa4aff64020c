"""Batches of uint8 images, the same ones on any number of processes and after any restart.

A batch is {'image': (n, H, W, C) uint8, 'label': (n,) int32, 'mask': (n,) bool}, where n is this
process's part of the global batch: process p of P has the global rows p*n to (p+1)*n.

Which examples a training batch has, and how they are cropped, is a function of the seed and the
step alone. `train_batch` is that function; Grain sees it as a random-access sequence over the steps
and runs ahead over it in threads or in worker processes. So the state of the iteration is one
number, the global step, and it means the same on any number of processes, threads and workers.

Whole batches, not examples, pass through Grain: what its own shuffle and random_map cost for each
example is more than a step on the embedded digits can hide.
"""

import contextlib
import dataclasses
import functools
import os
import re
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from cls import signals
from cls.data import order, transforms
from cls.data.sources import MEMORY_LIMIT, InMemory, Source
from cls.errors import UserError

Batch = dict[str, np.ndarray]

SHARED = '/dev/shm'
_MORE_SHARED = (
    'Give it more (docker run --shm-size=8g or --ipc=host; in Kubernetes an emptyDir with medium: '
    f'Memory at {SHARED}), or lower config.data.workers or config.batch'
)
_BUFFERED = 2  # batches that each worker makes ahead
_WITHOUT_END = 2**48  # steps; Grain wants a length, and adds to it


@dataclasses.dataclass(frozen=True)
class Info:
    """What a run has to know of its data before it sees any."""

    num_classes: int  # of the net's output
    class_names: tuple[str, ...]  # () if the classes have none
    num_train: int
    num_eval: int
    image_shape: tuple[int, int, int]  # (H, W, C) of the training batches


def info(train: Source | None, evaluation: Source, data: ConfigDict) -> Info:
    """Sums up what `datasets.load` returned for the two splits.

    Without a training split, which is for evaluation only, the length of an epoch has no meaning
    but has to be something: that of the evaluation split.
    """
    first = evaluation if train is None else train
    return Info(
        num_classes=data.num_classes or first.num_classes,
        class_names=first.class_names,
        num_train=len(first),
        num_eval=len(evaluation),
        image_shape=(data.image_size, data.image_size, first.channels),
    )


# ------------------------------------------------------------------------------------------------
# Reading: (indices, their positions) -> images and labels
# ------------------------------------------------------------------------------------------------

Reader = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
# positions -> examples
Order = Callable[[np.ndarray], np.ndarray]


def _take(
    indices: np.ndarray,
    at: np.ndarray,
    *,
    source: InMemory,
    pad: int = 0,
    border: transforms.Border = (0,),
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads images that have the size already, all at once; pads and crops them if pad is not 0."""
    images, labels = source.take(indices)
    if pad:
        offsets = order.pad_offsets(order.key(seed, order.CROP), at, pad)
        images = transforms.pad_crop(images, offsets, size=images.shape[1], pad=pad, border=border)
    return images, labels


def _read(
    indices: np.ndarray,
    at: np.ndarray,
    *,
    source: Source,
    crop: Callable[..., np.ndarray],
    size: int,
    threads: int,
    stream: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads images and crops them to this size, in so many threads besides (0: in the caller's).

    With a stream of random numbers those of an image's position are given to its crop.
    """
    crops = [crop] * len(at)
    if stream is not None:
        crops = [functools.partial(crop, rng=draws) for draws in order.draws(stream, at)]

    images = np.empty((len(at), size, size, source.channels), np.uint8)
    labels = np.empty(len(at), np.int32)

    def part(rows: range) -> None:
        for row in rows:
            images[row], labels[row] = source.read(int(indices[row]), crops[row])

    # A task for each image would cost a tenth of what decoding costs.
    count = min(max(1, threads), len(at))
    parts = [range(first, len(at), count) for first in range(count)]
    list((_pool(threads).map if threads else map)(part, parts))  # which raises what a part raised
    return images, labels


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix='images')


def _train_reader(source: Source, data: ConfigDict, seed: int, threads: int) -> Reader:
    crop = transforms.train_crop(data)
    if data.train_crop in ('none', 'pad') and (ready := _at_size(source, data, data.image_size)):
        pad = transforms.padding(data)
        border = transforms.border(data)
        return functools.partial(_take, source=ready, pad=pad, border=border, seed=seed)
    if data.name == 'synthetic':  # such images show what a step costs without its input
        return functools.partial(_take, source=_resized(source, data, data.image_size))
    stream = order.key(seed, order.CROP)
    size = data.image_size
    return functools.partial(
        _read, source=source, crop=crop, size=size, threads=threads, stream=stream
    )


def _eval_reader(source: Source, data: ConfigDict, threads: int) -> Reader:
    crop = transforms.eval_crop(data)
    size = transforms.eval_size(data)
    if data.eval_resize in (0, size) and (ready := _at_size(source, data, size)):
        return functools.partial(_take, source=ready)
    if data.name == 'synthetic' and source.shape[0] == size:
        return functools.partial(_take, source=source)
    return functools.partial(_read, source=source, crop=crop, size=size, threads=threads)


def _at_size(source: Source, data: ConfigDict, size: int) -> InMemory | None:
    """Returns a source in memory with its images resized once and for all, if they still fit."""
    if not isinstance(source, InMemory):
        return None
    if source.shape[:2] == (size, size):
        return source
    if len(source) * size * size * source.channels > MEMORY_LIMIT:
        return None
    return _resized(source, data, size)


def _resized(source: InMemory, data: ConfigDict, size: int) -> InMemory:
    if source.shape[:2] == (size, size):
        return source
    return source.mapped(
        functools.partial(
            transforms.center_crop,
            size=size,
            resize_to=size,
            interpolation=transforms.interpolation(data),
        )
    )


def _threads(source: Source) -> int:
    """As many as decode at once, and one that reads a file meanwhile.

    None for what is in memory, where Python's lock is the limit.
    """
    return 0 if isinstance(source, InMemory) else os.cpu_count() + 1


# ------------------------------------------------------------------------------------------------
# Batches: functions of the step
# ------------------------------------------------------------------------------------------------


def train_batch(
    step: int,
    *,
    readers: tuple[tuple[int, Reader], ...],
    example_at: Order,
    batch: int,
    repeats: int,
    num_classes: int,
    process: tuple[int, int],
) -> Batch:
    """Returns this process's part of a global batch of the endless, reshuffled epochs.

    Of the (first step, reader) pairs, which come in the order of their steps, the last that has
    begun reads.
    """
    at = order.positions(step, batch, process)
    indices = example_at(order.repeated(at, batch, repeats))
    read = [reader for start, reader in readers if start <= step][-1]
    images, labels = read(indices, at)
    _check_labels(labels, indices, num_classes)
    return {'image': images, 'label': labels, 'mask': np.ones(len(labels), bool)}


def eval_batch(
    step: int,
    *,
    read: Reader,
    length: int,
    batch: int,
    num_classes: int,
    process: tuple[int, int],
    shape: tuple[int, int, int],
) -> Batch:
    """Returns this process's part of a global batch in the source's order, with zeros after it."""
    at = order.positions(step, batch, process)
    images = np.zeros((len(at), *shape), np.uint8)
    labels = np.zeros(len(at), np.int32)
    mask = at < length
    if mask.any():
        images[mask], labels[mask] = read(at[mask], at[mask])
        _check_labels(labels[mask], at[mask], num_classes)
    return {'image': images, 'label': labels, 'mask': mask}


def _check_labels(labels: np.ndarray, indices: np.ndarray, num_classes: int) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise UserError(
            f'Example {indices[wrong[0]]} has the label {labels[wrong[0]]}: expected 0 to '
            f'{num_classes - 1}. Check config.data.num_classes, and that the split has labels.'
        )


def _check_batch(batch: int, process: tuple[int, int]) -> None:
    if batch < 1 or batch % process[1]:
        raise UserError(
            f'The batch of {batch} examples cannot be shared by {process[1]} process(es): '
            'expected a positive multiple of their number in config.batch and config.eval.batch.'
        )


def check_repeats(data: ConfigDict, batch: int) -> None:
    """Raises UserError if a batch cannot hold whole sets of data.repeats copies."""
    if data.repeats < 1 or batch % data.repeats:
        raise UserError(
            f'config.data.repeats is {data.repeats}: expected a divisor of the {batch} examples of '
            'config.batch.'
        )


# ------------------------------------------------------------------------------------------------
# Iteration
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Steps:
    """A function of the step as a sequence, which is what Grain reads from."""

    batch_at: Callable[[int], Batch]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, step: int) -> Batch:
        return self.batch_at(int(step))


def _ahead(steps: _Steps, start: int, workers: int) -> grain.DatasetIterator:
    """Iterates from step `start` on, in order, with two batches (of each worker) made ahead."""
    batches = grain.MapDataset.source(steps)[start:]
    if not workers:
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
        return iter(batches.to_iter_dataset(options))
    if not flags.FLAGS.is_parsed():
        # Grain hands its flags on to the workers, even where no absl.app has parsed any.
        flags.FLAGS.mark_as_parsed()
    in_worker = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_BUFFERED)
    return iter(batches.to_iter_dataset(in_worker).mp_prefetch(options, _begin_worker))


def _begin_worker(index: int, count: int) -> None:
    signals.serve()


def _of_worker(error: RuntimeError) -> UserError | None:
    """Returns what to say of a worker that died; None if the error is of something else."""
    died = re.search(r'terminated unexpectedly with exit code (-?\d+)', str(error))
    if not died:
        return None
    code = int(died[1])
    how = f'was killed by {signal.Signals(-code).name}' if code < 0 else f'ended with code {code}'
    advice = {
        -signal.SIGBUS: f'{SHARED} is full, where it hands over its batches. {_MORE_SHARED}',
        -signal.SIGKILL: 'the memory may have run out. Lower config.data.workers',
    }.get(code, 'what it printed is above. config.data.workers=0 reads in the trainer itself')
    return UserError(f'a process that reads images (config.data.workers) {how}: {advice}.')


# ------------------------------------------------------------------------------------------------
# Shared memory, by which workers hand over their batches
# ------------------------------------------------------------------------------------------------


def shared_memory(train: 'TrainIterator | Paired') -> int:
    """Returns the most bytes in shared memory that the workers of an iterator ever need.

    A worker has its buffer twice, once on each side, and a batch in the hand; on the side of the
    trainer Grain holds one more of each worker. Two batches are with the training step.
    """
    if isinstance(train, Paired):
        return sum(shared_memory(iterator) for iterator in train.parts)
    return (train.workers * (2 * _BUFFERED + 2) + 2) * train.batch_bytes if train.workers else 0


def missing_shared_memory(needs: Sequence[int], free: int | None) -> str:
    """Returns what is wrong with a machine's shared memory, '' if nothing is.

    Args:
      needs: bytes, of each process of a run on this machine.
      free: bytes in SHARED; None if the system has no limit.
    """
    if free is None or sum(needs) <= free:
        return ''
    needed, left = (f'{number / 2**20:,.0f} MiB' for number in (sum(needs), free))
    return (
        f'{SHARED} has {left} left, and the workers of {len(needs)} process(es) here need up to '
        f'{needed}: one that finds it full dies of SIGBUS. {_MORE_SHARED}.'
    )


def free_shared_memory() -> int | None:
    """Returns the bytes left in SHARED; None on systems without it."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


class TrainIterator:
    """Endless training batches, with the global step as state. See `train_batches`."""

    def __init__(self, steps: _Steps, workers: int, batch_bytes: int = 0):
        self._steps, self.workers, self.batch_bytes = steps, workers, batch_bytes
        self._step = 0
        self._running = []  # Grain's iterator, between the first batch and `close`
        # Also at the end of the program, and not by Grain's own __del__: that may come when Python
        # has already taken apart what Grain stops its workers with.
        weakref.finalize(self, _close_all, self._running)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            if self._running:
                batch = next(self._running[0])
            else:  # not in __init__: a restored step may come before the first batch
                with signals.withheld() if self.workers else contextlib.nullcontext():
                    self._running.append(_ahead(self._steps, self._step, self.workers))
                    batch = next(self._running[0])
        except RuntimeError as error:
            if problem := _of_worker(error):
                raise problem from error
            raise
        self._step += 1
        return batch

    def get_state(self) -> dict:
        """Returns {'step': int}, the global step of the next batch; it can be saved as JSON."""
        return {'step': self._step}

    def set_state(self, state: dict) -> None:
        """Continues at a state, of whatever process count, threads and workers it came."""
        self.close()
        self._step = int(state['step'])

    def close(self) -> None:
        """Stops threads and workers; the next `next` starts them again."""
        _close_all(self._running)


class Paired:
    """Training batches from two sources, each at the same step: those of the second as 'held'."""

    def __init__(self, first: TrainIterator, second: TrainIterator):
        self.parts = self._first, self._second = first, second

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> dict:
        return next(self._first) | {'held': next(self._second)}

    def get_state(self) -> dict:
        """Returns {'step': int}, as TrainIterator."""
        return self._first.get_state()

    def set_state(self, state: dict) -> None:
        """Continues at a state."""
        for iterator in self.parts:
            iterator.set_state(state)

    def close(self) -> None:
        """Stops threads and workers."""
        for iterator in self.parts:
            iterator.close()


def _close_all(running: list[grain.DatasetIterator]) -> None:
    while running:
        running.pop().close()


def train_batches(
    source: Source,
    data: ConfigDict,
    *,
    batch: int,
    seed: int,
    num_classes: int,
    process: tuple[int, int] = (0, 1),
    sizes: tuple[tuple[int, int], ...] = (),
) -> TrainIterator:
    """Returns an endless iterator over this process's part of the training batches.

    The examples are reshuffled every epoch, each comes once in an epoch, and batches straddle the
    epochs; data.repeats and data.balanced change that, see `order`.

    With data.workers, Grain starts that many processes at the first batch; the program's main
    module must then be guarded by `if __name__ == '__main__'`.

    Args:
      source: `datasets.load(data, 'train')`.
      data: `config.data`.
      batch: Size of the global batch.
      seed: Of order and crops, 0 or more.
      num_classes: Labels must be less.
      process: (index, count).
      sizes: (first step, pixels) pairs, the first at step 0: of the images from that step on; ():
        data.image_size throughout. See `at_size` for the crops.

    Raises UserError, from here for the configuration and from `next` for the data.
    """
    _check_batch(batch, process)
    if seed < 0 or data.workers < 0:
        field, value = ('seed', seed) if seed < 0 else ('data.workers', data.workers)
        raise UserError(f'config.{field} is {value}: expected 0 or more.')
    check_repeats(data, batch)
    # Workers are for decoding. What is in memory would only be copied to them and back.
    workers = 0 if isinstance(source, InMemory) else data.workers
    threads = 0 if workers else _threads(source)
    readers = tuple(
        (start, _train_reader(source, at_size(data, size), seed, threads))
        for start, size in sizes or ((0, data.image_size),)
    )
    batch_at = functools.partial(
        train_batch,
        readers=readers,
        example_at=(
            order.Balanced(source.labels(), seed)
            if data.balanced
            else functools.partial(order.shuffled, length=len(source), seed=seed)
        ),
        batch=batch,
        repeats=data.repeats,
        num_classes=num_classes,
        process=process,
    )
    size = max([size for _, size in sizes] or [data.image_size])
    batch_bytes = batch // process[1] * size**2 * source.channels
    return TrainIterator(_Steps(batch_at, _WITHOUT_END), workers, batch_bytes)


def at_size(data: ConfigDict, size: int) -> ConfigDict:
    """Returns config.data for images of another size; what is in pixels grows with it."""
    if size == data.image_size:
        return data
    factor = size / data.image_size
    data = data.copy_and_resolve_references()
    data.unlock()
    data.image_size, data.pad = size, round(factor * data.pad)
    data.scale = tuple(round(factor * side) for side in data.scale)
    return data


class EvalBatches:
    """Evaluation batches, to be iterated any number of times. See `eval_batches`."""

    def __init__(self, steps: _Steps):
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Batch]:
        iterator = _ahead(self._steps, start=0, workers=0)
        try:
            yield from iterator
        finally:
            iterator.close()


def eval_batches(
    source: Source,
    data: ConfigDict,
    *,
    batch: int,
    num_classes: int,
    process: tuple[int, int] = (0, 1),
) -> EvalBatches:
    """Returns this process's part of the evaluation batches: each example once, in order.

    The last global batch is filled up with zeros whose mask is False, so every process has the
    same number of batches, all of the same shape. Arguments and errors are those of
    `train_batches`, with the source of the 'eval' split.
    """
    _check_batch(batch, process)
    batch_at = functools.partial(
        eval_batch,
        read=_eval_reader(source, data, _threads(source)),
        length=len(source),
        batch=batch,
        num_classes=num_classes,
        process=process,
        shape=(*2 * (transforms.eval_size(data),), source.channels),
    )
    return EvalBatches(_Steps(batch_at, -(-len(source) // batch)))

"""Batches of uint8 images, the same on any number of processes and after any restart.

A batch is {'image': (n, H, W, C) uint8, 'label': (n,) int32, 'mask': (n,) bool}; the labels of a
source with several for each image are (n, K) uint8. n is the share of this process in the global
batch: process p of P has the global rows p*n to (p+1)*n.

The examples of a training batch and their crops are a function of only the seed and the step.
`train_batch` is that function; Grain takes it as a random-access sequence over the steps and
prefetches in threads or in worker processes. So the state of the iteration is one number, the
global step, with the same meaning for any number of processes, threads and workers.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from cls.data import order
from cls.data.iteration import Batch, EvalBatches, StepSequence, TrainIterator
from cls.data.readers import (
    Reader,
    eval_reader,
    padding,
    reading_threads,
    ready_images,
    train_reader,
)
from cls.data.resident import LIMIT, ResidentIterator, Table
from cls.data.sources import InMemory, Source
from cls.data.spec import DataSpec
from cls.data.transforms import border
from cls.errors import UserError

_WITHOUT_END = 2**48  # steps; Grain wants a length, and adds to it
# positions -> examples
Order = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Info:
    """The numbers and names of a run's data."""

    num_classes: int  # of the network's output
    class_names: tuple[str, ...]  # () if the classes have no names
    num_train: int
    num_eval: int
    image_shape: tuple[int, int, int]  # (H, W, C) of the training batches


def info(train: Source | None, evaluation: Source, data: DataSpec) -> Info:
    """Returns the numbers and names of the two splits that `datasets.load` opened.

    Without a training split, for evaluation only, `num_train` has no meaning, and equals
    `num_eval`.
    """
    first = evaluation if train is None else train
    return Info(
        num_classes=data.num_classes or first.num_classes,
        class_names=first.class_names,
        num_train=len(first),
        num_eval=len(evaluation),
        image_shape=(data.image_size, data.image_size, first.channels),
    )


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

    `readers` has (first step, reader) pairs in the order of their steps; the last pair with a first
    step of at most `step` is used.
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
    label: tuple[tuple[int, ...], type[np.generic]] = ((), np.int32),
) -> Batch:
    """Returns this process's part of a global batch in the source's order, zero-padded."""
    at = order.positions(step, batch, process)
    images = np.zeros((len(at), *shape), np.uint8)
    labels = np.zeros((len(at), *label[0]), label[1])
    mask = at < length
    if mask.any():
        images[mask], labels[mask] = read(at[mask], at[mask])
        _check_labels(labels[mask], at[mask], num_classes)
    return {'image': images, 'label': labels, 'mask': mask}


def _check_labels(labels: np.ndarray, indices: np.ndarray, num_classes: int) -> None:
    if labels.ndim > 1:  # of several classes: made of these
        return
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


def _check_training(data: DataSpec, batch: int, seed: int, process: tuple[int, int]) -> None:
    _check_batch(batch, process)
    if seed < 0:
        raise UserError(f'config.seed is {seed}: expected 0 or more.')
    data.check_repeats(batch, 'a batch')


def _order(source: Source, data: DataSpec, seed: int) -> Order:
    if data.balanced:
        if source.multi_label:
            raise UserError(
                'config.data.balanced draws by the class of an image, and with data.multi_label it '
                'has several: expected False.'
            )
        return order.Balanced(source.labels(), seed)
    return functools.partial(order.shuffled, length=len(source), seed=seed)


def train_batches(
    source: Source,
    data: DataSpec,
    *,
    batch: int,
    seed: int,
    num_classes: int,
    process: tuple[int, int] = (0, 1),
    sizes: tuple[tuple[int, int], ...] = (),
) -> TrainIterator:
    """Returns an endless iterator over this process's part of the training batches.

    Each example occurs once per epoch, in an order that changes with the epoch, and a batch may
    have examples of two epochs; data.repeats and data.balanced change that, see `order`.

    With data.workers, Grain starts data.workers processes at the first batch; the main module of
    the program must then be guarded by `if __name__ == '__main__'`.

    Args:
      source: `datasets.load(data, 'train')`.
      data: The specification of the source.
      batch: The size of the global batch.
      seed: The seed of order and crops, 0 or more.
      num_classes: The number of classes; labels must be less.
      process: (index, count).
      sizes: (first step, pixels) pairs, the first at step 0: the size of the images from a step on;
        (): data.image_size throughout. See `DataSpec.at_size` for the crops.

    Raises UserError for the configuration; `next` raises UserError for the data.
    """
    _check_training(data, batch, seed, process)
    # Workers are for decoding: images in memory would only be copied to them and back.
    workers = 0 if isinstance(source, InMemory) else data.workers
    threads = 0 if workers else reading_threads(source)
    readers = tuple(
        (start, train_reader(source, data.at_size(size), seed, threads))
        for start, size in sizes or ((0, data.image_size),)
    )
    batch_at = functools.partial(
        train_batch,
        readers=readers,
        example_at=_order(source, data, seed),
        batch=batch,
        repeats=data.repeats,
        num_classes=num_classes,
        process=process,
    )
    size = max([size for _, size in sizes] or [data.image_size])
    batch_bytes = batch // process[1] * size**2 * source.channels
    steps = StepSequence(batch_at, _WITHOUT_END)
    return TrainIterator(steps, workers, batch_bytes, source.explained)


def resident_batches(
    source: Source,
    data: DataSpec,
    *,
    batch: int,
    seed: int,
    num_classes: int,
    process: tuple[int, int] = (0, 1),
    sizes: tuple[tuple[int, int], ...] = (),
) -> ResidentIterator | None:
    """Returns the batches of `train_batches` as rows of arrays, or None for other data.

    The data must be images in memory of at most `resident.LIMIT` bytes at each size, that
    training crops by padding or not at all. Arguments and errors are those of `train_batches`; all
    labels are checked here.
    """
    _check_training(data, batch, seed, process)
    tables, sizes = {}, sizes or ((0, data.image_size),)
    for _, size in sizes:
        tables[size] = _table(source, data.at_size(size), seed)
        if tables[size] is None:
            return None
        labels = tables[size].labels
        _check_labels(labels, np.arange(len(labels)), num_classes)
    example_at = _order(source, data, seed)
    return ResidentIterator(sizes, tables, example_at, batch, data.repeats, process)


def _table(source: Source, data: DataSpec, seed: int) -> Table | None:
    images = ready_images(source, data)
    if images is None or images.nbytes > LIMIT:
        return None
    pad, offsets = padding(data), None
    if pad:
        offsets = functools.partial(order.pad_offsets, order.key(seed, order.CROP), pad=pad)
    return Table(*images.arrays(), pad, border(data), offsets)


def eval_batches(
    source: Source,
    data: DataSpec,
    *,
    batch: int,
    num_classes: int,
    process: tuple[int, int] = (0, 1),
) -> EvalBatches:
    """Returns this process's part of the evaluation batches: each example once, in order.

    The last global batch is padded with zeros, with mask False, so every process has the same
    number of batches, all of the same shape. Arguments and errors are those of `train_batches`,
    with the source of the 'eval' split.
    """
    _check_batch(batch, process)
    batch_at = functools.partial(
        eval_batch,
        read=eval_reader(source, data, reading_threads(source)),
        length=len(source),
        batch=batch,
        num_classes=num_classes,
        process=process,
        shape=(data.eval_pixels, data.eval_pixels, source.channels),
        label=(source.label_shape, source.label_dtype),
    )
    return EvalBatches(StepSequence(batch_at, -(-len(source) // batch)))

"""The plan of an evaluation: the views of its images, their shapes, batches and order."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jax.experimental import multihost_utils

from cls.data import views as data_views
from cls.data.sources import InMemory, Source
from cls.data.spec import DataSpec
from cls.data.views import Order, Scale, Views
from cls.evaluation.protocols import EvalSpec, Protocol


@dataclasses.dataclass(frozen=True)
class Batching:
    """The devices and the processes of an evaluation.

    Attributes:
      full: the images of the network's size in a batch, over all devices.
      devices: the number of devices.
      process: (index, count).
    """

    full: int
    devices: int
    process: tuple[int, int] = (0, 1)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The views of all images, by a protocol.

    Attributes:
      protocol: the protocol.
      views: the views at each scale; () for the center crop of training.
      scales: their shapes.
      order: the images.
    """

    protocol: Protocol
    views: tuple[Views, ...]
    scales: tuple[Scale, ...]
    order: Order


def plan(
    protocol: Protocol, spec: EvalSpec, data: DataSpec, source: Source, batching: Batching
) -> Plan:
    """Returns the plan of a protocol. For a dense one, the sizes of all images are read once.

    A batch has at most as many pixels as `batching.full` images of the network's size.
    """
    count, size = len(source), data.eval_pixels
    if protocol.views is None:
        crop = _one_shape(1, (size, size), count, batching.full)
        return Plan(protocol, (), (crop,), range(count))
    views = protocol.views(spec, data)
    sizes = None if all(each.fixed for each in views) else _sizes(source, batching.process)
    scales = tuple(_scale(each, sizes, size, count, batching) for each in views)
    return Plan(protocol, views, scales, _order(scales, count))


def together(plans: Iterable[Plan]) -> list[Plan]:
    """Returns plans of the same images with the same order."""
    plans = list(plans)
    scales = [scale for plan in plans for scale in plan.scales]
    order = _order(scales, len(plans[0].order))
    return [dataclasses.replace(plan, order=order) for plan in plans]


def _order(scales: Sequence[Scale], count: int) -> Order:
    """Returns an order of all images, with those of one shape in a row."""
    ranks = [scale.shape_of for scale in scales if len(scale.shapes) > 1]
    return np.lexsort(ranks[::-1]).astype(np.int32) if ranks else range(count)


def _one_shape(views: int, shape: tuple[int, int], count: int, batch: int) -> Scale:
    return Scale(views, np.array([shape]), np.broadcast_to(np.int32(0), count), (batch,))


def _scale(of: Views, sizes: np.ndarray | None, size: int, count: int, batching: Batching) -> Scale:
    def batch(shape: tuple[int, int], images: int) -> int:
        fit = batching.full * size**2 // (shape[0] * shape[1])
        wanted = min(max(fit, 1), images * of.count)
        return -(-wanted // batching.devices) * batching.devices

    if sizes is None:
        shape = of.shape(0, 0)
        return _one_shape(of.count, shape, count, batch(shape, count))
    different, size_of = np.unique(sizes, axis=0, return_inverse=True)
    shapes = np.array([of.shape(*each) for each in different.tolist()], np.int32)
    shapes, shape_of = np.unique(shapes, axis=0, return_inverse=True)
    shape_of = shape_of.ravel()[size_of.ravel()].astype(np.int32)
    images = np.bincount(shape_of).tolist()
    batches = [batch(tuple(each), images[kind]) for kind, each in enumerate(shapes.tolist())]
    return Scale(of.count, shapes, shape_of, tuple(batches))


def _sizes(source: Source, process: tuple[int, int]) -> np.ndarray:
    """Returns (N, 2), heights and widths of all images; each process reads its share."""
    count, (index, processes) = len(source), process
    if isinstance(source, InMemory):
        return np.tile(source.shape[:2], (count, 1))
    share = -(-count // processes)
    sizes = data_views.sizes(source, range(index * share, min((index + 1) * share, count)))
    if processes == 1:
        return sizes
    padded = np.concatenate([sizes, np.zeros((share - len(sizes), 2), np.int32)])
    return multihost_utils.process_allgather(padded).reshape(-1, 2)[:count]

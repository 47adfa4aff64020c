"""Predictions of many images: decoded by threads ahead of the devices, in batches of one shape.

On a CPU local images are decoded with all cores between groups of batches: a layer is split into a
part for each core, and a thread that decodes on one of them would let the others wait for it.

The views of a protocol (cls.evaluation.protocols) are those of an evaluation, and so is the
prediction, the mean of their probabilities. An image that cannot be read is a result with an error
and does not end the stream.
"""

import collections
import contextlib
import dataclasses
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np

from cls.data.decode import BrokenImage
from cls.errors import UserError
from cls.evaluation import protocols
from cls.evaluation.protocols import EvalSpec
from cls.inference.preprocess import Image, Preprocess, UnreadableImage
from cls.nn import folding
from cls.storage import paths

AHEAD = 3  # batches of images that are decoded ahead
IN_FLIGHT = 2  # batches that the devices compute at once
GROUP, GROUP_SECONDS = 4, 4.0  # most batches between decoding on a CPU, and their time
DECODING = 5  # the niceness of threads that decode on the cores that compute
WAITING = 16  # batches of images whose results wait for those of earlier images

Named = tuple[str, Image]
Rows = list[tuple[int, np.ndarray]]  # (number of the image, view)


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of one image.

    Attributes:
      name: the name of the image.
      probabilities: (num_classes,) float32; empty for an image that cannot be taken.
      error: the reason if the image cannot be taken, otherwise ''.
      embedding: (D,) float32, the mean over the views; None unless asked for.
    """

    name: str
    probabilities: np.ndarray
    error: str = ''
    embedding: np.ndarray | None = None


class Predictor(Protocol):
    """The parts of a `cls.inference.model.Model` that a stream uses."""

    module: Any
    variables: Any
    variant: str
    preprocess: Preprocess
    batch: int
    mesh: Any

    def program(self, key: Any, function: Callable[..., Any], axis: int = 0) -> Callable[..., Any]:
        """Returns a jitted function of (variables, uint8 images)."""
        ...

    def put(self, images: np.ndarray) -> jax.Array:
        """Returns images on the devices."""
        ...

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Returns the probabilities of logits."""
        ...


def bucket(count: int, most: int, devices: int) -> int:
    """Returns the size of the batch for some images: few sizes, so that few programs are compiled.

    Args:
      count: the number of images, at most `most`.
      most: the size of a full batch.
      devices: the number of devices.
    """
    size = min(1 << (count - 1).bit_length(), most)
    return -(-size // devices) * devices


def threads() -> int:
    """Returns the number of threads that decode at once, and one more to read files meanwhile."""
    return (os.cpu_count() or 1) + 1


def decoders() -> ThreadPoolExecutor:
    """Returns the threads that decode images."""
    give_way = _give_way if jax.default_backend() == 'cpu' else None
    return ThreadPoolExecutor(threads(), 'images', initializer=give_way)


def _give_way() -> None:
    """Lets the threads that compute go before this one, on Linux, where threads have priorities.

    A layer is split into a part for each core. A thread that decodes on one of them meanwhile
    lets all the others wait for that part.
    """
    if sys.platform == 'linux':
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), DECODING)


def crops(preprocess: Preprocess, images: Sequence[Named], most: int) -> Iterator[np.ndarray]:
    """Yields center crops of images, (n, size, size, C) uint8 with n at most `most`.

    Raises UnreadableImage for the first image that cannot be taken.
    """
    if len(images) == 1:
        name, image = images[0]
        yield preprocess.crop(image, name)[None]
        return
    with decoders() as pool:
        made = _ahead(pool, lambda named: preprocess.crop(named[1], named[0]), images, 2 * most)
        part = []
        for future in made:
            part.append(future.result())
            if len(part) == most:
                yield np.stack(part)
                part = []
        if part:
            yield np.stack(part)


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any], count: int
) -> Iterator[Future]:
    """Yields the futures of function(item) in order, with `count` of them submitted ahead."""
    waiting: collections.deque[Future] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for future in waiting:
            future.cancel()


@dataclasses.dataclass
class _Begun:
    """An image with some of its views computed."""

    name: str
    missing: int
    total: Any = 0.0  # the sum of the probabilities
    vector: Any = 0.0  # the sum of the embeddings
    views: int = 0
    error: str = ''


class _Stream:
    """The state of a stream: rows that wait for a batch, batches in flight, results in order."""

    def __init__(self, model: Predictor, protocol: str, spec: EvalSpec, embed: str) -> None:
        chosen = protocols.find(protocol)
        self.model, self.embed, self.mirrored, self.dense = model, embed, chosen.mirrored, False
        data = model.preprocess.data()
        module = model.module
        if chosen.dense:
            self.dense, module = True, protocols.dense_form(module, data)
        self.views = chosen.views(spec, data) if chosen.views else ()
        self.full = model.batch * model.mesh.size
        key = ('stream', protocol, dataclasses.astuple(spec), embed)
        step = _step(module, self.mirrored, embed)
        self.program = model.program(key, step, axis=1)
        self.step = step
        self.rows: dict[tuple[int, ...], Rows] = {}
        self.flying: collections.deque[tuple[Any, list[int]]] = collections.deque()
        self.begun: dict[int, _Begun] = {}
        self.turn = threading.Event()  # of the threads that decode; on a CPU not while it computes
        self.turn.set()
        self.shared = jax.default_backend() == 'cpu'
        self.full_rows: list[tuple[tuple[int, ...], Rows]] = []
        self.group = 1  # batches that are computed one after the other, before more are decoded
        self.checked: set[tuple[int, ...]] = set()
        self.full_shapes: set[tuple[int, ...]] = set()

    def seen(self, named: Named) -> list[np.ndarray]:
        """Returns the views of an image, each (count, h, w, C) uint8. Raises UnreadableImage."""
        name, image = named
        if self.shared and not _is_far(image):
            self.turn.wait()
        if not self.views:
            return [self.model.preprocess.crop(image, name)[None]]
        pixels = self.model.preprocess.decoded(image, name)
        try:
            return [views.make(pixels) for views in self.views]
        except BrokenImage as error:
            raise UnreadableImage.of(name, error) from error

    def ahead(self) -> int:
        """Returns the number of images to decode ahead: those with the views of some batches."""
        pixels = sum(each.count * math.prod(each.shape(1, 1)) for each in self.views)
        crops = max(pixels / self.model.preprocess.size**2, 1)
        return max(int(AHEAD * self.full / crops), threads())

    def add(self, index: int, named: Named, future: Future) -> None:
        """Adds the views of an image; computes the batches that become full, by groups."""
        try:
            views = future.result()
        except UnreadableImage as error:
            self.begun[index] = _Begun(named[0], 0, error=error.why)
            return
        self.begun[index] = _Begun(named[0], sum(map(len, views)))
        for part in views:
            for view in part:
                rows = self.rows.setdefault(view.shape, [])
                rows.append((index, view))
                if len(rows) == self._most(view.shape):
                    self.full_rows.append((view.shape, self.rows.pop(view.shape)))
                    if len(self.full_rows) >= self.group:
                        self._compute_full()

    def _most(self, shape: tuple[int, ...]) -> int:
        """Returns the images of a shape in a batch: as many pixels as a full batch of crops."""
        pixels = shape[0] * shape[1]
        fit = self.full * self.model.preprocess.size**2 // pixels
        devices = self.model.mesh.size
        return max(fit // devices, 1) * devices

    def _compute_full(self) -> None:
        full, self.full_rows = self.full_rows, []
        if self.shared:
            self.turn.clear()
        try:
            for shape, rows in full:
                began = time.perf_counter()
                self._compute(shape, rows)
                if self.shared:
                    batches = GROUP_SECONDS / (time.perf_counter() - began)
                    self.group = max(min(int(batches), GROUP), 1)
        finally:
            self.turn.set()

    def _compute(self, shape: tuple[int, ...], rows: Rows) -> None:
        devices, most = self.model.mesh.size, self._most(shape)
        # Once a program for full batches is there, a part of a batch is padded to one.
        size = most if shape in self.full_shapes else bucket(len(rows), most, devices)
        self.full_shapes |= {shape} if size == most else set()
        images = np.zeros((size, *shape), np.uint8)
        for row, (_, view) in enumerate(rows):
            images[row] = view
        batch = self.model.put(images)
        if self.dense and shape not in self.checked:
            _check_shape(self.step, self.model, batch)
            self.checked.add(shape)
        self.flying.append((self.program(self.model.variables, batch), [i for i, _ in rows]))
        if self.shared:
            jax.block_until_ready(self.flying[-1][0])
        while len(self.flying) > IN_FLIGHT:
            self._land()

    def _land(self) -> None:
        result, indices = self.flying.popleft()
        logits = np.asarray(result['logits'])[:, : len(indices)]
        vectors = np.asarray(result['embed'])[:, : len(indices)] if self.embed else None
        of_views = [self.model.probabilities(part) for part in logits]
        for row, index in enumerate(indices):
            begun = self.begun[index]
            for mirror, part in enumerate(of_views):
                begun.total = begun.total + part[row]
                if vectors is not None:
                    begun.vector = begun.vector + vectors[mirror, row]
                begun.views += 1
            begun.missing -= 1

    def flush(self) -> None:
        """Computes all rows that wait, and waits for all results."""
        self.full_rows += self.rows.items()
        self.rows = {}
        self._compute_full()
        while self.flying:
            self._land()

    def done(self, index: int) -> Result | None:
        """Returns the result of an image, None if it is not complete yet."""
        begun = self.begun.get(index)
        if begun is None or begun.missing:
            return None
        del self.begun[index]
        if begun.error:
            return Result(begun.name, np.zeros(0, np.float32), begun.error)
        mean = np.asarray(begun.total / begun.views, np.float32)
        vector = np.asarray(begun.vector / begun.views, np.float32) if self.embed else None
        return Result(begun.name, mean, '', vector)


def stream(
    model: Predictor,
    images: Iterable[Named],
    *,
    protocol: str = 'single',
    scales: Sequence[int] = (),
    size_divisor: int = EvalSpec.size_divisor,
    embed: str = '',
) -> Iterator[Result]:
    """Yields the result of each image, in their order.

    Images are decoded by threads while the devices compute. Memory is bounded: it does not grow
    with the number of images.

    Args:
      model: the model.
      images: (name, image) pairs; an iterable that is read as far as needed.
      protocol: one of cls.evaluation.protocols.PROTOCOLS.
      scales: for dense protocols, as config.eval.scales.
      size_divisor: for dense protocols, as config.eval.size_divisor.
      embed: the name of the layer for `Result.embedding`; '' for none.

    Raises:
      UserError: there is no such protocol, the model cannot take images of its shapes, or an item
        is no pair.
    """
    spec = EvalSpec(protocol=protocol, scales=tuple(scales), size_divisor=size_divisor)
    state = _Stream(model, protocol, spec, embed)
    names: collections.deque[Named] = collections.deque()

    def noted() -> Iterator[Named]:
        for named in images:
            if not isinstance(named, tuple) or len(named) != 2:
                raise UserError(
                    f'a {type(named).__name__} is no (name, image): expected pairs, as '
                    "[('first', 'bird.jpg')]."
                )
            names.append(named)
            if state.shared:
                _announce(named[1])
            yield named

    first, last = 0, 0
    # On a CPU these threads have their turn, and no need to give way as those of `decoders`.
    with ThreadPoolExecutor(threads(), 'images') as pool:
        for future in _ahead(pool, state.seen, noted(), state.ahead()):
            state.add(last, names.popleft(), future)
            last += 1
            if last - first > WAITING * state.full:
                state.flush()
            while (result := state.done(first)) is not None:
                yield result
                first += 1
    state.flush()
    while (result := state.done(first)) is not None:
        yield result
        first += 1
    if first != last:
        raise AssertionError(f'{last - first} images without a result')


def _is_far(image: Image) -> bool:
    return isinstance(image, str | os.PathLike) and paths.is_remote(image)


def _announce(image: Image) -> None:
    """Lets the system read a local file ahead, while the threads that decode it wait."""
    if isinstance(image, str | os.PathLike) and hasattr(os, 'posix_fadvise'):
        with contextlib.suppress(OSError, ValueError):  # the reader says what is wrong
            if not _is_far(image) and os.path.isfile(image):
                with open(image, 'rb') as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _step(module: Any, mirrored: bool, embed: str) -> Callable[[Any, jax.Array], Any]:
    """Returns a function of (variables, normalized images) -> logits and embeddings.

    Both are (1, N, ...), or (2, N, ...) with those of the mirror images.
    """

    def one(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        if not embed:
            forward = folding.folded(lambda v, x: module.apply(v, x, train=False))
            return {'logits': forward(variables, images)}
        logits, state = module.apply(variables, images, train=False, mutable=['intermediates'])
        value = state['intermediates'][embed][-1].astype(jnp.float32)
        return {
            'logits': logits,
            'embed': value.reshape(len(value), -1, value.shape[-1]).mean(1),
        }

    def step(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        sides = [images, images[:, :, ::-1]] if mirrored else [images]
        results = [one(variables, side) for side in sides]
        return {name: jnp.stack([result[name] for result in results]) for name in results[0]}

    return step


def _check_shape(step: Callable[..., Any], model: Predictor, images: jax.Array) -> None:
    height, width = images.shape[1:3]
    shape = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    try:
        jax.eval_shape(step, model.variables, shape)
    except (TypeError, ValueError, flax.errors.FlaxError) as error:
        raise UserError(
            f'{model.variant} cannot take images of {height} x {width} pixels ({error}): dense '
            'protocols are for networks that end in a mean over positions, for VGG and PReLU-nets, '
            'and for scales no smaller than in training; choose another protocol or scales.'
        ) from error

"""A model with its weights, classes and preparation of images."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cls import models
from cls.data.classes import words
from cls.errors import UserError, nearest
from cls.evaluation.average import sigmoids, softmax
from cls.inference import stream as streams
from cls.inference.explaining import Explanation, explain
from cls.inference.preprocess import Image, Images, Preprocess, split
from cls.inference.stream import Result
from cls.models.registry import introspection
from cls.models.registry.init import draw
from cls.nn import folding
from cls.steps import sharding as meshes

BATCH = 32  # images that are computed together, on each device


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A class and its probability.

    Attributes:
      index: the output of the network, from 0.
      label: the class as the weights call it ('n01440764', 'cat'), or the index as a text.
      name: the class in words ('tench'); the label if there are none.
      probability: 0 to 1; over all classes they sum to 1 unless an image may have several.
    """

    index: int
    label: str
    name: str
    probability: float


class Model:
    """A network with its weights, classes and preparation of images.

    `cls.load` and `cls.create` make one. A call gives probabilities:

      model = cls.load('runs/birds')
      model('bird.jpg')  # (1, num_classes) float32

    Images are paths, contents of files, images of Pillow, uint8 arrays (H, W, C) or (H, W) of any
    size, batches (N, H, W, C), and sequences of all these. On several devices a batch is split
    over all of them.

    Attributes:
      module: the Flax module.
      variables: its variables, {'params', 'batch_stats'}, on the devices.
      classes: the label of each output; () if they are unknown.
      preprocess: from images to the input of the module; can be used alone.
      variant: the name of the registered variant.
      source: the origin of the weights.
      license: the license of the weights, '' if unknown.
      batch: images that are computed together, on each device.
      multi_label: whether an image may have any number of classes; probabilities are then sigmoids,
        otherwise a softmax.
    """

    def __init__(
        self,
        module: nn.Module,
        variables: Any,
        preprocess: Preprocess,
        *,
        classes: Sequence[str] = (),
        variant: str = '',
        source: str = '',
        license: str = '',
        batch: int = BATCH,
        multi_label: bool = False,
    ) -> None:
        """Puts the variables on all devices of this process.

        Args:
          module: the Flax module; maps (N, H, W, C) to logits (N, num_classes).
          variables: {'params', 'batch_stats'}, of NumPy or JAX arrays.
          preprocess: the preparation of images.
          classes: the labels of the outputs; () if they are unknown.
          variant: the name of the registered variant.
          source: the origin of the weights.
          license: the license of the weights.
          batch: images that are computed together, on each device.
          multi_label: whether an image may have any number of classes.

        Raises UserError if there is not one label for each output.
        """
        self.module, self.preprocess = module, preprocess
        self.variant, self.source, self.license = variant, source, license
        self.batch, self.multi_label = batch, multi_label
        self.mesh = meshes.make_mesh(1, jax.local_devices())
        self.classes = _labels(classes, self.num_classes)
        self.variables = _placed(variables, self.mesh)
        self._programs: dict[Any, Callable[..., Any]] = {}

    @property
    def num_classes(self) -> int:
        """The number of outputs."""
        module: Any = self.module
        return module.num_classes

    @property
    def names(self) -> tuple[str, ...]:
        """The classes in words, in the order of the outputs; () if they are unknown."""
        return tuple(map(words, self.classes))

    def __repr__(self) -> str:
        """Returns a short description: variant, classes, size of images, source."""
        size = self.preprocess.size
        count = sum(x.size for x in jax.tree.leaves(self.variables.get('params', {})))
        return (
            f'Model({self.variant or type(self.module).__name__}, {self.num_classes:,} classes, '
            f'{count:,} parameters, images of {size} x {size}, from {self.source or "nothing"!r})'
        )

    def __call__(self, images: Images) -> np.ndarray:
        """Returns the probabilities of images, (N, num_classes) float32.

        Args:
          images: an image or several, see the class.

        Raises UnreadableImage for an image that cannot be taken.
        """
        parts = [self.probabilities(x) for x in self._computed(images, 'logits', self._logits)]
        return _joined(parts, (self.num_classes,))

    def logits(self, images: Images) -> np.ndarray:
        """Returns the logits of images, (N, num_classes) float32. Raises as a call does."""
        return _joined(self._computed(images, 'logits', self._logits), (self.num_classes,))

    def of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the probabilities of prepared images, (N, num_classes) float32.

        Args:
          pixels: (N, size, size, C) uint8, as of `preprocess.pixels`. Each power of two of N is
            compiled once; on several devices it is a multiple of theirs.
        """
        most = self.batch * self.mesh.size
        program, parts = self.program('logits', self._logits), []
        for start in range(0, len(pixels), most):
            part = pixels[start : start + most]
            padded = padded_to(part, streams.bucket(len(part), most, self.mesh.size))
            logits = np.asarray(program(self.variables, self.put(padded)))[: len(part)]
            parts.append(self.probabilities(logits))
        return _joined(parts, (self.num_classes,))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Returns the probabilities of (N, num_classes) logits, in float64."""
        return sigmoids(logits)[:, : logits.shape[1]] if self.multi_label else softmax(logits)

    @overload
    def predict(self, images: Image, top: int = 5) -> list[Prediction]: ...
    @overload
    def predict(self, images: Iterable[Any], top: int = 5) -> list[list[Prediction]]: ...
    def predict(self, images: Any, top: int = 5) -> Any:
        """Returns the most probable classes: a list of `Prediction`, the best first.

        For a single image this is `list[Prediction]`; for a batch or a sequence it is one such list
        for each image. A network with fewer classes than `top` gives all of them.

        Args:
          images: an image or several, see the class.
          top: the number of classes.

        Raises UnreadableImage for an image that cannot be taken.
        """
        each, single = split(images)
        rows = [self.ranked(row, top) for row in self([image for _, image in each])]
        return rows[0] if single else rows

    def ranked(self, probabilities: np.ndarray, top: int = 5) -> list[Prediction]:
        """Returns the `top` classes of (num_classes,) probabilities; the first of equal ones."""
        if top < 1:
            raise UserError(f'top is {top}: expected the number of classes to return, 1 or more.')
        order = np.argsort(-np.asarray(probabilities), kind='stable')[:top]
        return [Prediction(i, *self.named(i), float(probabilities[i])) for i in order.tolist()]

    def named(self, index: int) -> tuple[str, str]:
        """Returns (label, name) of an output."""
        label = self.classes[index] if self.classes else str(index)
        return label, words(label)

    def embed(self, images: Images, layer: str = 'pre_logits') -> np.ndarray:
        """Returns a vector for each image, (N, D) float32: the output of a layer.

        Args:
          images: an image or several, see the class.
          layer: the name of a stage, see `features`; maps are averaged over positions.

        Raises:
          UserError: there is no such layer.
          UnreadableImage: an image cannot be taken.
        """
        shapes = self.feature_shapes()
        if layer not in shapes:
            raise UserError(
                f'there is no layer {layer!r}.{nearest(layer, shapes)} Known: {", ".join(shapes)}.'
            )

        def vectors(variables: Any, x: jax.Array) -> jax.Array:
            value = self._features(variables, x)[layer].astype(jnp.float32)
            return value.reshape(len(value), -1, value.shape[-1]).mean(1)

        return _joined(self._computed(images, ('embed', layer), vectors), shapes[layer][-1:])

    def features(self, images: Images) -> dict[str, np.ndarray]:
        """Returns the outputs of the stages and `pre_logits`, by name, (N, ...) of their type.

        Args:
          images: an image or several, see the class.

        Raises UnreadableImage for an image that cannot be taken.
        """
        parts = list(self._computed(images, 'features', self._features))
        shapes = self.feature_shapes()
        return {name: _joined([x[name] for x in parts], shapes[name]) for name in shapes}

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        p, order = self.preprocess, []

        def features(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
            values = models.features(self.module, variables, images)
            order.extend(values)  # the results of JAX are sorted by name
            return values

        images = jax.ShapeDtypeStruct((1, p.size, p.size, p.channels), jnp.float32)
        shapes = jax.eval_shape(features, self.variables, images)
        return {name: shapes[name].shape[1:] for name in order}

    def feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of `features` for one image, by name, from the first stage on."""
        return dict(self._shapes)

    def explain(
        self,
        image: Image,
        method: str = 'gradcam',
        *,
        target: int | str | None = None,
        **options: Any,
    ) -> Explanation:
        """Returns a map of the pixels of an image that speak for a class.

        Args:
          image: one image, see the class.
          method: 'gradcam' or 'integrated_gradients'.
          target: the class, by its index, label or name; None: the most probable one.
          **options: see `cls.inference.explaining.explain`.

        Raises as that function does.
        """
        return explain(self, image, method, target=target, **options)

    def reset_classifier(
        self, num_classes: int, classes: Sequence[str] = (), seed: int = 0
    ) -> None:
        """Replaces the classifier by a newly initialized one; the other weights stay.

        Args:
          num_classes: the number of outputs.
          classes: their labels; () if they are unknown.
          seed: the seed of the new weights.

        Raises UserError for a number below 1, or another number of labels.
        """
        if num_classes < 1:
            raise UserError(
                f'num_classes is {num_classes}: expected 1 or more (model.embed is without the '
                'classifier).'
            )
        labels = _labels(classes, num_classes)
        module, p = self.module.clone(num_classes=num_classes), self.preprocess
        size, channels = p.size, p.channels
        head = introspection.head(module, size, channels)
        flat: Any = traverse_util.flatten_dict(self.variables)
        new = {path for path in flat if '/'.join(path[1:]) in head}
        drawn = draw(module, seed, size, channels, new)
        self.variables = _placed(traverse_util.unflatten_dict({**flat, **drawn}), self.mesh)
        self.module, self.classes = module, labels
        self._forget()

    def _forget(self) -> None:
        self._programs.clear()
        self.__dict__.pop('_shapes', None)

    # ------------------------------------------------------------------------------ computing

    def stream(self, images: Iterable[tuple[str, Image]], **options: Any) -> Iterator[Result]:
        """Yields the result of each of many images, in their order, see cls.inference.stream."""
        return streams.stream(self, images, **options)

    def program(self, key: Any, function: Callable[..., Any], axis: int = 0) -> Callable[..., Any]:
        """Returns a jitted function of (variables, uint8 images on the mesh), compiled once.

        Args:
          key: names the function.
          function: computes from variables and normalized images.
          axis: that of the images in the result.
        """
        if key not in self._programs:

            def compute(variables: Any, images: jax.Array) -> Any:
                return function(variables, self.preprocess.normalize(images))

            sharding = meshes.batch_sharding(self.mesh, axis)
            self._programs[key] = jax.jit(compute, out_shardings=sharding)
        return self._programs[key]

    def own_program(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a jitted function of any arguments, compiled once. Args: see `program`."""
        if key not in self._programs:
            self._programs[key] = jax.jit(function)
        return self._programs[key]

    def put(self, images: np.ndarray) -> jax.Array:
        """Returns images on the devices; their number has to be a multiple of the devices'."""
        return meshes.put_batch(images, meshes.batch_sharding(self.mesh))

    def _logits(self, variables: Any, images: jax.Array) -> jax.Array:
        apply = folding.folded(functools.partial(self.module.apply, train=False))
        return apply(variables, images)

    def _features(self, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        return models.features(self.module, variables, images)

    def _computed(self, images: Images, key: Any, function: Callable[..., Any]) -> Iterator[Any]:
        """Yields function(variables, images) for the batches of some images, in host memory."""
        each, _ = split(images)
        program, most = self.program(key, function), self.batch * self.mesh.size
        for crops in streams.crops(self.preprocess, each, most):
            padded = padded_to(crops, streams.bucket(len(crops), most, self.mesh.size))
            result = program(self.variables, self.put(padded))
            yield jax.tree.map(functools.partial(_first, count=len(crops)), result)


def padded_to(images: np.ndarray, size: int) -> np.ndarray:
    """Returns images followed by zeros, (size, ...)."""
    if len(images) == size:
        return images
    return np.concatenate([images, np.zeros((size - len(images), *images.shape[1:]), images.dtype)])


def _first(rows: jax.Array, count: int) -> np.ndarray:
    return np.asarray(rows)[:count]


def _joined(parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    parts = list(parts)
    if not parts:
        return np.zeros((0, *shape), np.float32)
    joined = np.concatenate(parts)
    return joined.astype(np.float32) if joined.dtype == np.float64 else joined


def _labels(classes: Sequence[str], count: int) -> tuple[str, ...]:
    if classes and len(classes) != count:
        raise UserError(
            f'{len(classes)} classes are named, and the network has {count} outputs: expected a '
            'name for each.'
        )
    return tuple(classes)


def _placed(variables: Any, mesh: Any) -> Any:
    return jax.device_put(variables, meshes.replicated(mesh))

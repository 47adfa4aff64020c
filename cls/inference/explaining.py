"""Maps of the pixels that speak for a class: Grad-CAM and integrated gradients.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391): the channels of a layer,
weighted by the mean of the gradient of the class's logit over the positions, summed, and the
positive part resized to the image. The layer is a stage that the network sows.

Integrated gradients (Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365): the gradient of
the logit, averaged over the way from a baseline to the image and multiplied by their difference.
Its sum over all values is the difference of the two logits, up to the steps of the average.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from cls.errors import UserError, nearest
from cls.inference.preprocess import Image, split
from cls.storage import paths

METHODS = ('gradcam', 'integrated_gradients')
STEPS = 32  # of integrated gradients
TOGETHER = 8  # steps that are computed at once
_STRONGEST = 99.0  # percentile of an integrated gradient that is shown with the full color


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A map of the pixels that speak for a class.

    Attributes:
      heat: (size, size) float32, in units of the logit. Grad-CAM's is not negative; that of
        integrated gradients is signed.
      pixels: (size, size, C) uint8, the image as the network sees it.
      index: the output of the network.
      label, name: its class, see `Prediction`.
      probability: that of the class.
      method: one of METHODS.
      layer: the layer of Grad-CAM, otherwise ''.
      cam: (h, w) float32, Grad-CAM's map before it is resized; None for other methods.
      gap: of integrated gradients, the sum of the attributions minus the difference of the logits.
    """

    heat: np.ndarray
    pixels: np.ndarray
    index: int
    label: str
    name: str
    probability: float
    method: str
    layer: str = ''
    cam: np.ndarray | None = None
    gap: float = 0.0

    def overlay(self, opacity: float = 0.5) -> np.ndarray:
        """Returns the image with the map in color over it, (size, size, 3) uint8 RGB.

        Args:
          opacity: 0 (only the image) to 1.
        """
        heat = np.abs(self.heat)
        if self.method == 'gradcam':
            most = heat.max()
        else:
            heat = cv2.GaussianBlur(heat, (0, 0), max(heat.shape[0] / 112, 0.1))
            most = np.percentile(heat, _STRONGEST) or heat.max()
        part = np.clip(heat / most, 0, 1) if most > 0 else np.zeros_like(heat)
        colors = cv2.applyColorMap((255 * part).round().astype(np.uint8), cv2.COLORMAP_TURBO)
        gray = self.pixels.shape[2] != 3
        image = np.repeat(self.pixels[..., :1], 3, axis=2) if gray else self.pixels
        mixed = (1 - opacity) * image + opacity * colors[..., ::-1]
        return np.clip(mixed.round(), 0, 255).astype(np.uint8)

    def save(self, file: str | Path, opacity: float = 0.5) -> None:
        """Writes the overlay as a PNG, atomically. Raises UserError for another suffix."""
        path = paths.checked(file)
        if path.suffix.lower() != '.png':
            raise UserError(f'{path}: expected a file NAME.png.')
        _, encoded = cv2.imencode('.png', self.overlay(opacity)[..., ::-1])
        paths.write_whole(path, encoded.tobytes())


def explain(
    model: Any,
    image: Image,
    method: str = 'gradcam',
    *,
    target: int | str | None = None,
    layer: str = '',
    steps: int = STEPS,
    baseline: Image | None = None,
) -> Explanation:
    """Returns a map of the pixels of an image that speak for a class.

    Args:
      model: a `cls.inference.model.Model`.
      image: one image, see `Model`.
      method: 'gradcam' or 'integrated_gradients'.
      target: the class, by its index, label or name; None: the most probable one.
      layer: the stage for Grad-CAM, see `Model.features`; '': see `default_layer`.
      steps: of integrated gradients, the points between baseline and image.
      baseline: of integrated gradients, an image; None: the mean color of the normalization.

    Raises:
      UserError: there is no such method, class or layer, or not one image.
      UnreadableImage: the image cannot be taken.
    """
    check(model, method, target=target, layer=layer, steps=steps)
    each, _ = split(image)
    if len(each) != 1:
        raise UserError(f'{len(each)} images: expected one to explain.')
    pixels = model.preprocess.pixels(each[0][1])
    if baseline is not None and method != 'integrated_gradients':
        raise UserError('a baseline is only for integrated_gradients: leave it out.')
    start = None if baseline is None else model.preprocess.pixels(baseline)
    return explain_pixels(
        model, pixels, method, target=target, layer=layer, steps=steps, baseline=start
    )


def explain_pixels(
    model: Any,
    pixels: np.ndarray,
    method: str = 'gradcam',
    *,
    target: int | str | None = None,
    layer: str = '',
    steps: int = STEPS,
    baseline: np.ndarray | None = None,
) -> Explanation:
    """Returns the map of a prepared image; arguments and errors as those of `explain`.

    Args:
      model: a `cls.inference.model.Model`.
      pixels: (1, size, size, C) uint8, as of `model.preprocess.pixels`.
      method: 'gradcam' or 'integrated_gradients'.
      target: the class.
      layer: the stage for Grad-CAM.
      steps: of integrated gradients.
      baseline: of integrated gradients, (1, size, size, C) uint8.
    """
    probabilities = model.of_pixels(pixels)[0]
    index = int(probabilities.argmax()) if target is None else _index(model, target)
    label, name = model.named(index)
    shown: dict[str, Any] = {'pixels': pixels[0], 'index': index, 'label': label, 'name': name}
    shown |= {'probability': float(probabilities[index]), 'method': method}
    if method == 'gradcam':
        layer = layer or default_layer(model)
        cam = gradcam(model, pixels, index, layer)
        size = model.preprocess.size
        heat = jax.image.resize(cam, (size, size), 'linear', antialias=False)
        return Explanation(np.asarray(heat), layer=layer, cam=cam, **shown)
    attributions, gap = integrated_gradients(model, pixels, index, steps, baseline)
    return Explanation(attributions.sum(-1), gap=gap, **shown)


def check(
    model: Any,
    method: str,
    *,
    target: int | str | None = None,
    layer: str = '',
    steps: int = STEPS,
) -> None:
    """Raises the errors of `explain` that do not depend on an image."""
    if method not in METHODS:
        raise UserError(
            f'method is {method!r}: expected one of {", ".join(METHODS)}.{nearest(method, METHODS)}'
        )
    if steps < 1:
        raise UserError(f'steps is {steps}: expected 1 or more.')
    if target is not None:
        _index(model, target)
    if layer and method != 'gradcam':
        raise UserError(f'layer is {layer!r}, which only gradcam takes: leave it out.')
    if steps != STEPS and method != 'integrated_gradients':
        raise UserError(f'steps is {steps}, which only integrated_gradients takes: leave it out.')
    if layer:
        _check_layer(model, layer)


def _check_layer(model: Any, layer: str) -> None:
    shapes = {name: s for name, s in model.feature_shapes().items() if len(s) == 3}
    if layer not in shapes:
        raise UserError(
            f'there is no stage {layer!r}.{nearest(layer, shapes)} Known: {", ".join(shapes)}.'
        )


def _index(model: Any, target: int | str) -> int:
    if isinstance(target, str):
        for labels in (model.classes, model.names):
            if target in labels:
                return labels.index(target)
        if not target.isdecimal():
            raise UserError(
                f'target is {target!r}: expected a class of the model, or its index.'
                f'{nearest(target, [*model.classes, *model.names])}'
            )
    index = int(target)
    if not 0 <= index < model.num_classes:
        raise UserError(f'target is {index}: expected 0 to {model.num_classes - 1}.')
    return index


def default_layer(model: Any) -> str:
    """Returns the last stage with more than one position that the logits depend on.

    Without such a stage it is the last one that they depend on.

    Raises UserError for a network without stages.
    """
    maps = {name: s for name, s in model.feature_shapes().items() if len(s) == 3}
    wide = [name for name, (height, width, _) in maps.items() if height * width > 1]
    p = model.preprocess
    images = jax.ShapeDtypeStruct((1, p.size, p.size, p.channels), jnp.float32)
    for name in (*reversed(wide), *reversed(list(maps))):
        traced = _trace(model.module, model.variables, images, name)
        if _sources(traced.jaxpr):
            return name
    raise UserError(
        f'{type(model.module).__name__} sows no stage that its logits depend on: expected '
        'method=integrated_gradients.'
    )


# ---------------------------------------------------------------------------------------- Grad-CAM


def gradcam(model: Any, pixels: np.ndarray, index: int, layer: str) -> np.ndarray:
    """Returns Grad-CAM's map of one image, (h, w) float32, with the size of the layer.

    Args:
      model: a `cls.inference.model.Model`.
      pixels: (1, size, size, C) uint8.
      index: the output of the network.
      layer: the name of a stage.

    Raises UserError if there is no such stage, or the logits do not depend on it.
    """
    _check_layer(model, layer)

    def compute(variables: Any, images: jax.Array, target: jax.Array) -> tuple[Any, Any]:
        def logit(delta: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, value = _evaluated(traced, leaves, sources, delta)
            return logits[0, target], value

        images = model.preprocess.normalize(images)
        traced = _trace(model.module, variables, images, layer)
        leaves, sources = jax.tree.leaves((variables, images)), _sources(traced.jaxpr)
        if not sources:
            raise UserError(
                f'the logits do not depend on the output of {layer!r}: expected another stage.'
            )
        out = traced.jaxpr.outvars[1].aval
        grads, value = jax.grad(logit, has_aux=True)(jnp.zeros(out.shape, out.dtype))
        return grads, value

    program = model.own_program(('gradcam', layer), compute)
    grads, value = program(model.variables, pixels, index)
    grads, value = (np.asarray(x, np.float32)[0] for x in (grads, value))
    weights = grads.mean((0, 1))
    return np.maximum((value * weights).sum(-1), 0)


def _trace(module: Any, variables: Any, images: Any, layer: str) -> core.ClosedJaxpr:
    """Returns the program of (logits, output of a stage) in evaluation mode."""

    def function(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, state = module.apply(variables, images, train=False, mutable=['intermediates'])
        return logits, state['intermediates'][layer][-1]

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (variables, images))
    return jax.make_jaxpr(function)(*shapes)


def _sources(jaxpr: Any) -> list[Any]:
    """Returns the values of a program that are the sown stage and that the logits depend on.

    It is the sown value itself, or, if that is only a concatenation, its parts in their order. []
    if the logits do not depend on it.
    """
    logits, stage = jaxpr.outvars
    needed = {logits}
    for eqn in reversed(jaxpr.eqns):
        if any(v in needed for v in eqn.outvars):
            needed |= {v for v in eqn.invars if isinstance(v, core.Var)}
    if stage in needed:
        return [stage]
    made = next((eqn for eqn in jaxpr.eqns if stage in eqn.outvars), None)
    if made is None or made.primitive.name != 'concatenate':
        return []
    last = made.params['dimension'] == len(stage.aval.shape) - 1
    return list(made.invars) if last and all(part in needed for part in made.invars) else []


def _evaluated(
    traced: core.ClosedJaxpr, leaves: Sequence[Any], sources: Sequence[Any], delta: jax.Array
) -> list[Any]:
    """Returns the results of a program with `delta` added to some of its values.

    Args:
      traced: the program.
      leaves: its arguments.
      sources: the values; `delta` has theirs in a row on the last axis.
      delta: what is added.
    """
    ends = np.cumsum([v.aval.shape[-1] for v in sources])[:-1]
    added = dict(zip(sources, jnp.split(delta, ends, -1), strict=True))
    jaxpr = traced.jaxpr
    values: dict[Any, Any] = {}

    def write(variable: Any, value: Any) -> None:
        values[variable] = value + added[variable] if variable in added else value

    def read(x: Any) -> Any:
        return x.val if isinstance(x, core.Literal) else values[x]

    for variable, value in zip(jaxpr.constvars, traced.consts, strict=True):
        write(variable, value)
    for variable, value in zip(jaxpr.invars, leaves, strict=True):
        write(variable, value)
    for eqn in jaxpr.eqns:
        takes = list(dict.fromkeys(x for x in eqn.invars if isinstance(x, core.Var)))
        part = jaxpr.replace(constvars=(), invars=takes, outvars=eqn.outvars, eqns=[eqn])
        compute = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))
        for variable, value in zip(eqn.outvars, compute(*map(read, takes)), strict=True):
            write(variable, value)
    return [read(x) for x in jaxpr.outvars]


# ---------------------------------------------------------------------------- integrated gradients


def integrated_gradients(
    model: Any,
    pixels: np.ndarray,
    index: int,
    steps: int = STEPS,
    baseline: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Returns (the attribution of each value, (size, size, C) float32; the gap of their sum).

    The average is over the midpoints of equal steps.

    Args:
      model: a `cls.inference.model.Model`.
      pixels: (1, size, size, C) uint8.
      index: the output of the network.
      steps: the number of steps.
      baseline: (1, size, size, C) uint8; None: the mean color of the normalization.
    """
    apply = functools.partial(model.module.apply, train=False)

    def gradients(variables: Any, images: jax.Array, target: jax.Array) -> tuple[Any, Any]:
        def total(images: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = apply(variables, images)[:, target]
            return logits.sum(), logits

        return jax.grad(total, has_aux=True)(images)

    program: Callable[..., Any] = model.own_program('gradients', gradients)
    end = model.preprocess.normalize(pixels)
    start = jnp.zeros_like(end) if baseline is None else model.preprocess.normalize(baseline)
    parts = (np.arange(steps, dtype=np.float32) + 0.5) / steps
    total: Any = 0.0
    for first in range(0, steps, TOGETHER):
        part = parts[first : first + TOGETHER]
        # A part of a batch is padded with the image itself, whose gradients are left out.
        padded = np.concatenate([part, np.ones(TOGETHER - len(part), np.float32)])
        points = start + padded[:, None, None, None] * (end - start)
        grads, _ = program(model.variables, points, index)
        total = total + np.asarray(grads, np.float64)[: len(part)].sum(0)
    ends = jnp.concatenate([start, end, *[end] * (TOGETHER - 2)])
    _, logits = program(model.variables, ends, index)
    attributions = total / steps * np.asarray(end - start, np.float64)[0]
    gap = attributions.sum() - float(logits[1] - logits[0])
    return attributions.astype(np.float32), float(gap)

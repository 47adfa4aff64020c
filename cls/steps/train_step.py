"""The compiled pure functions: the training step, and the evaluation of a batch."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cls import models
from cls.augment.apply import apply
from cls.augment.spec import AugmentSpec
from cls.nn import expansion, folding
from cls.nn.cpu import native
from cls.steps import averages, freeze, joined, loops, losses, remat
from cls.steps import sharding as meshes
from cls.steps.distill import DistillSpec, Teacher, divergence
from cls.steps.multi_label import topk_hits
from cls.steps.norms import global_norm
from cls.steps.sam import sharpness_aware
from cls.steps.state import TrainState

Batch = dict[str, jax.Array]  # image (N, H, W, C) uint8, label (N,) int32, mask (N,) bool


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The constants of a step, apart from the model and the optimizer."""

    total_steps: int
    mean: tuple[float, ...]  # of pixels in 0..255
    std: tuple[float, ...]
    flip: bool
    label_smoothing: float
    aux_weight: float
    accumulate: int
    ema: float
    contrast: str = ''  # '' | global
    augment: AugmentSpec = AugmentSpec()
    freeze: str = ''  # frozen parameters, see cls.steps.freeze
    freeze_bn: bool = False  # whether the statistics of all norms are frozen
    remat: str = ''  # granularity of rematerialization, see cls.steps.remat
    loss: losses.LossSpec = losses.LossSpec()
    sam: float = 0.0  # radius of sharpness-aware minimization
    ema_warmup: str = 'tensorflow'  # see cls.steps.averages
    ema_every: int = 1
    distill: DistillSpec = DistillSpec()
    multi_label: bool = False  # whether labels are (N, K), 1 for each class of an example
    teacher: Teacher | None = None  # of distill, with its variables as an argument of the step

    @classmethod
    def from_config(
        cls, config: Any, total_steps: int, channels: int, counts: np.ndarray | None = None
    ) -> 'Recipe':
        """Reads a config, for a run of `total_steps` on images with `channels` channels.

        Args:
          config: the config of the run.
          total_steps: the length of the run.
          channels: those of the images.
          counts: (K,), the training examples of each class, if the loss needs them.

        Raises UserError for an unknown config.remat, and for the mistakes that
        AugmentSpec.from_config and LossSpec find.
        """
        remat.check(config.remat)
        data, loss, chosen = config.data, config.loss, losses.LossSpec.from_config(config)
        return cls(
            total_steps,
            tuple(data.mean),
            tuple(data.std),
            data.flip,
            loss.label_smoothing,
            loss.aux_weight,
            config.accumulate,
            config.ema,
            data.contrast,
            AugmentSpec.from_config(config, channels),
            config.optim.freeze,
            remat=config.remat,
            loss=chosen if counts is None else chosen.with_counts(counts),
            sam=config.optim.sam,
            ema_warmup=config.ema_warmup,
            ema_every=config.ema_every,
            distill=DistillSpec.from_config(config),
            multi_label=data.multi_label,
        )

    def normalize(self, images: jax.Array) -> jax.Array:
        """Returns normalized images, see `normalize`."""
        return normalize(images, self.mean, self.std, self.contrast)

    def pixels(self, images: jax.Array) -> jax.Array:
        """Returns the images of `augmented` as pixels in 0..255, if `contrast` is ''."""
        if not self.augment.active:
            return images
        return images * jnp.asarray(self.std) + jnp.asarray(self.mean)


def normalize(
    images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...], contrast: str = ''
) -> jax.Array:
    """Returns images (N, H, W, C) in 0..255 as float32, by channel (x - mean) / std.

    With `contrast` 'global' each image is first standardized to mean 0 and variance 1 over all its
    values; its standard deviation counts as at least 1 / sqrt(H W C), as in TensorFlow's
    per_image_standardization.
    """
    images = images.astype(jnp.float32)
    if contrast:
        least = 1 / math.sqrt(math.prod(images.shape[1:]))
        spread = images.std((1, 2, 3), keepdims=True)
        images = (images - images.mean((1, 2, 3), keepdims=True)) / jnp.maximum(spread, least)
    return (images - jnp.asarray(mean)) / jnp.asarray(std)


def random_flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Returns images, each mirrored left to right with probability 1/2."""
    flips = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flips, images[:, :, ::-1], images)


def augmented(
    recipe: Recipe, batch: Batch, key: jax.Array, model: nn.Module, batch_sharding: NamedSharding
) -> tuple[jax.Array, jax.Array]:
    """Returns a training batch, mirrored and augmented with the random numbers of the step's key.

    Returns:
      Images, uint8, or normalized float32 if recipe.augment is active; labels (N,) int32, or
      probabilities (N, model.num_classes) where images are mixed.
    """
    flip_key, _ = jax.random.split(key)
    images, labels = batch['image'], batch['label']
    if recipe.flip:
        images = random_flip(images, flip_key)
    if recipe.augment.active:  # the key: split makes the first two that fold_in does
        key = jax.random.fold_in(key, 2)
        classes = model.num_classes if recipe.augment.mixes else 0
        return apply(recipe.augment, images, labels, key, recipe.normalize, classes, batch_sharding)
    return images, labels


def _is_number(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _map_floating(function: Callable, old: Any, new: Any) -> Any:
    """Returns function(old, new) for floating-point leaves, and `new` for all others."""
    return jax.tree.map(lambda x, y: function(x, y) if _is_number(y) else y, old, new)


def microbatches(batch: jax.Array, count: int, group: int) -> jax.Array:
    """Returns (count, N / count, ...) of (N, ...): groups of consecutive examples, dealt out.

    Microbatch i has the groups i, i + count, ...: examples that are normalized together stay
    together, and a device with a multiple of `count` groups computes only on its own examples.
    """
    dealt = batch.reshape(-1, count, group, *batch.shape[1:])
    return jnp.moveaxis(dealt, 1, 0).reshape(count, -1, *batch.shape[1:])


def make_loss(model: nn.Module, recipe: Recipe, batch_sharding: NamedSharding) -> Callable:
    """Returns loss(params, batch_stats, images, labels, key, progress) of a training batch.

    It returns (loss, (new batch_stats, metrics)), with the metrics `loss` and `top1` of
    `make_train_step`. Images and labels are those of `augmented`; `key` is for dropout, `progress`
    is the completed fraction of the training, `teacher` the variables of recipe.teacher. Further
    keyword arguments are passed to the model.
    """
    takes_progress = models.takes_progress(model)
    frozen_mask = functools.partial(freeze.frozen_mask, recipe.freeze)
    apply = functools.partial(remat.apply, recipe.remat)
    if not recipe.remat and meshes.is_cpu(batch_sharding.mesh):  # elsewhere not measured
        apply = loops.apply
    tpus = meshes.of_tpus(batch_sharding.mesh)

    def loss_fn(params, batch_stats, images, labels, key, progress, teacher=None, **arguments):
        extra = arguments | ({'progress': progress} if takes_progress else {})
        mask = frozen_mask(params, batch_stats, recipe.freeze_bn)
        params = meshes.gathered(params, batch_sharding.mesh)
        params = freeze.select(mask['params'], jax.lax.stop_gradient(params), params)
        kept = freeze.kept_norms(mask['batch_stats'])
        with expansion.tracked(tpus):
            logits, updated = apply(
                model,
                {'params': params, 'batch_stats': batch_stats, 'kept': kept},
                images if recipe.augment.active else recipe.normalize(images),
                mutable=['batch_stats', 'aux_logits', 'penalties'],
                rngs={'dropout': key},
                **extra,
            )

        chex.assert_rank(logits, 2)
        chex.assert_equal_shape_prefix((logits, images), 1)

        def mean_loss(logits):
            return recipe.loss.per_example(logits, labels, recipe.label_smoothing).mean()

        loss = mean_loss(logits)
        heads = jax.tree.leaves(updated.get('aux_logits', {}))
        if heads:
            loss += recipe.aux_weight * sum(map(mean_loss, heads)) / len(heads)
        metrics = {}
        if recipe.teacher is not None:
            targets = recipe.teacher.logits(teacher, recipe.pixels(images))
            distance = divergence(logits, targets, recipe.distill.temperature).mean()
            loss = (1 - recipe.distill.weight) * loss + recipe.distill.weight * distance
            metrics = {'distillation': distance}
        loss += sum(jax.tree.leaves(updated.get('penalties', {})))
        if recipe.multi_label:
            top1 = 100 * topk_hits(logits, labels, 1).mean()
        else:
            heaviest = labels if labels.ndim == 1 else labels.argmax(-1)
            top1 = 100 * losses.topk_correct(logits, heaviest, 1).mean()
        metrics |= {'loss': loss, 'top1': top1}
        return loss, (updated.get('batch_stats', {}), metrics)

    return loss_fn


def norms(grads: Any, params: Any, batch_stats: Any) -> dict[str, jax.Array]:
    """Returns the norms among the metrics of `make_train_step`."""
    numbers = [x for x in jax.tree.leaves(batch_stats) if _is_number(x)]
    trees = {'grad_norm': grads, 'param_norm': params, 'stats_norm': numbers}
    return {name: global_norm(tree) for name, tree in trees.items()}


def make_gradients(model: nn.Module, recipe: Recipe, batch_sharding: NamedSharding) -> Callable:
    """Returns gradients(state, images, labels, key, teacher) of a training batch.

    It gives (gradients, (new batch_stats, metrics)), averaged over the microbatches, see
    `make_loss`.
    """
    group = getattr(model, 'bn_group', 0) or 1
    loss_fn = make_loss(model, recipe, batch_sharding)

    def gradients(
        state: TrainState, images: jax.Array, labels: jax.Array, key: jax.Array, teacher: Any = None
    ) -> Any:
        progress = state.step / recipe.total_steps

        def microbatch(index, images, labels):
            grad_fn = jax.grad(loss_fn, has_aux=True)
            own_key = jax.random.fold_in(key, index)
            variables = state.params, state.batch_stats
            return grad_fn(*variables, images, labels, own_key, progress, teacher)

        if recipe.accumulate == 1:
            return microbatch(0, images, labels)
        spread = NamedSharding(batch_sharding.mesh, P(None, *batch_sharding.spec))
        images, labels = (
            jax.lax.with_sharding_constraint(microbatches(x, recipe.accumulate, group), spread)
            for x in (images, labels)
        )

        def add(total, inputs):
            return _map_floating(jnp.add, total, microbatch(*inputs)), None

        inputs = (jnp.arange(recipe.accumulate), images, labels)
        shapes = jax.eval_shape(microbatch, *jax.tree.map(lambda x: x[0], inputs))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, inputs)
        return _map_floating(lambda _, x: x / recipe.accumulate, total, total)

    return sharpness_aware(gradients, recipe.sam) if recipe.sam else gradients


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    batch_sharding: NamedSharding,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Returns train_step(state, batch) -> (state, metrics).

    With recipe.teacher it is train_step(state, batch, teacher), of the variables of the teacher.

    The loss includes all values that the model sows into 'penalties'. Statistics that are integers
    or booleans (indices, masks) are averaged neither over microbatches nor in the average of the
    weights: the newest ones are kept.

    Metrics are float32 scalars: `loss` (with label smoothing, auxiliary heads and penalties, but
    without weight decay), `top1` of the training batch in percent (by the larger of two mixed
    labels), `grad_norm` before clipping, and the norms of the new state, `param_norm` and
    `stats_norm` (of the BN statistics). All of them are finite only if the state is finite.
    """
    frozen_mask = functools.partial(freeze.frozen_mask, recipe.freeze)
    gradients = make_gradients(model, recipe, batch_sharding)

    def update(state: TrainState, grads: Any, batch_stats: Any) -> tuple[Any, Any, Any]:
        """Returns the new parameters, state of the optimizer, and averages."""
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if recipe.ema:
            decay = averages.decay(recipe.ema, recipe.ema_warmup, recipe.ema_every, state.step)
            now = {'params': params, 'batch_stats': batch_stats}
            ema = _map_floating(lambda old, new: decay * old + (1 - decay) * new, ema, now)
            if recipe.freeze:  # rounding would change the average of frozen values
                ema = freeze.select(frozen_mask(state.params, state.batch_stats), now, ema)
        return params, opt_state, ema

    def train_step(
        state: TrainState, batch: Batch, teacher: Any = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        chex.assert_rank((batch['image'], batch['label']), (4, 2 if recipe.multi_label else 1))
        key = state.key()
        _, net_key = jax.random.split(key)  # the first key is for the flips
        images, labels = augmented(recipe, batch, key, model, batch_sharding)
        grads, (batch_stats, metrics) = gradients(state, images, labels, net_key, teacher)
        mask = frozen_mask(state.params, state.batch_stats, recipe.freeze_bn)
        batch_stats = freeze.select(mask['batch_stats'], state.batch_stats, batch_stats)
        apply_update = joined.joined(update) if native.is_certain() else update
        params, opt_state, ema = apply_update(state, grads, batch_stats)
        chex.assert_trees_all_equal_shapes_and_dtypes(params, state.params)
        metrics |= norms(grads, params, batch_stats)
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=ema,
        )
        return state, metrics

    return train_step


def make_logits_step(
    model: nn.Module, recipe: Recipe, mirrored: bool = False
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns logits_step(variables, images) -> logits (1, N, K) float32.

    With `mirrored` the logits are (2, N, K), the second ones of the mirror images.
    """
    forward = folding.folded(functools.partial(model.apply, train=False))

    def logits_step(variables: Any, images: jax.Array) -> jax.Array:
        images = recipe.normalize(images)
        views = (images, images[:, :, ::-1]) if mirrored else (images,)
        logits: list[Any] = [forward(variables, x) for x in views]
        return jnp.stack(logits)

    return logits_step


def make_eval_step(
    model: nn.Module, recipe: Recipe
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """Returns eval_step(variables, batch) -> sums over the examples that are not masked.

    Sums are `top1` and `top5` (int32, examples), `loss` (float32, nats), `count` (int32). The
    result also has `label` and `guess` (N,) int32 of each example; the label is -1 if it is masked.
    """
    forward = folding.folded(functools.partial(model.apply, train=False))

    def eval_step(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        images = recipe.normalize(batch['image'])
        logits = forward(variables, images)
        labels, mask = batch['label'], batch['mask']
        chex.assert_rank((logits, labels), (2, 1))
        chex.assert_equal_shape((labels, mask))
        loss = losses.cross_entropy(logits, labels)
        return {
            'top1': jnp.sum(losses.topk_correct(logits, labels, 1) & mask),
            'top5': jnp.sum(losses.topk_correct(logits, labels, 5) & mask),
            'loss': jnp.sum(jnp.where(mask, loss, 0.0)),
            'count': jnp.sum(mask),
            'label': jnp.where(mask, labels, -1),
            'guess': logits.argmax(-1).astype(jnp.int32),
        }

    return eval_step


def make_moments_step(
    model: nn.Module, recipe: Recipe, batch_sharding: NamedSharding
) -> Callable[[Any, Batch, jax.Array, jax.Array], Any]:
    """Returns moments_step(variables, batch, step, key) -> the moments of each norm in a batch.

    The batch is mirrored and augmented as in training, and the model is in training mode. The
    result is the collection `moments` of cls.nn.norm: means and variances (C,), float32. `step` is
    the number of steps taken, for models that depend on the progress of training.
    """
    takes_progress = models.takes_progress(model)

    def moments_step(variables: Any, batch: Batch, step: jax.Array, key: jax.Array) -> Any:
        _, net_key = jax.random.split(key)
        images, _ = augmented(recipe, batch, key, model, batch_sharding)
        progress = jnp.minimum(step / recipe.total_steps, 1.0)
        extra: dict[str, Any] = {'progress': progress} if takes_progress else {}
        _, updated = model.apply(
            variables,
            images if recipe.augment.active else recipe.normalize(images),
            train=True,
            mutable=['batch_stats', 'aux_logits', 'penalties', 'moments'],
            rngs={'dropout': net_key},
            **extra,
        )
        return updated['moments']

    return moments_step

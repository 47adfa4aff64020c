"""Evaluation: every image of a split exactly once, on any number of devices and processes.

During training, sums over the center crops are enough (`evaluate_batches`). Afterwards, `--job
evaluate` computes the prediction of each image (`predict`), by a protocol of
cls.evaluation.protocols:

  python -m cls.main --job evaluate --workdir runs/NAME --config.eval.protocol=ten_crop

It writes these files to the run folder:

  evaluation.json     top-1, top-5, loss, calibration error, and the accuracy of each class; for
                      other protocols evaluation-PROTOCOL.json, with the values of data fields that
                      differ from those of the run in the name
  ...-confusion.npy   the confusion matrix
  NAME.csv            the predictions, if config.eval.predictions has that value

The latter two are of the average of the weights, if the run keeps one. `--output DIR` writes all
files to DIR. The result is printed first. A run folder that cannot be written to, or that another
process uses, is not changed.

May import: anything but ensemble, main, recipes, search, tools, train.
"""

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import flax.errors
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cls.config import runs
from cls.data import broken, pipeline
from cls.data import views as data_views
from cls.data.sources import InMemory, Source
from cls.distributed import agreement
from cls.errors import UserError
from cls.evaluation import metrics, precise_bn, protocols, robustness
from cls.evaluation.metrics import Predictions
from cls.evaluation.protocols import EvalSpec
from cls.run import metric_names
from cls.run.checkpoint import restore_newest, unread
from cls.run.reports import deliver, prepare
from cls.run.telemetry import write_json
from cls.run.workdir import load_classes
from cls.setup import Setup, abstract_state, process, set_up
from cls.steps import sharding as meshes
from cls.steps.state import TrainState
from cls.steps.train_step import make_logits_step

log = logging.getLogger(__name__)

EvalStep = Callable[[Any, Any], dict[str, jax.Array]]


def evaluate_batches(
    eval_step: EvalStep,
    variables: Any,
    batches: Iterable[Any],
    mesh: Mesh,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Returns top-1 and top-5 in percent and the mean loss in nats, over all images.

    Args:
      eval_step: (variables, batch) -> sums.
      variables: the variables, on the mesh.
      batches: this process's share of the padded and masked batches.
      mesh: the mesh of the devices.
      check: called before every batch; may raise to end the evaluation.
    """
    sharding = meshes.batch_sharding(mesh)
    variables = meshes.whole(variables, mesh)
    totals = {'top1': 0, 'top5': 0, 'loss': 0.0, 'count': 0}
    for batch in batches:
        check()
        sums = jax.device_get(eval_step(variables, meshes.put_batch(batch, sharding)))
        totals = {name: total + sums[name].item() for name, total in totals.items()}
    count = totals.pop('count')
    return {
        'top1': 100 * totals['top1'] / count,
        'top5': 100 * totals['top5'] / count,
        'loss': totals['loss'] / count,
    }


def evaluate_state(
    setup: Setup,
    eval_step: EvalStep,
    state: TrainState,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Returns 'validation/top1' or 'test/top1', ... of each of the `weight_sets`."""
    result = {}
    for name, variables in weight_sets(setup, state, check).items():
        batches = setup.eval_batches()
        values = evaluate_batches(eval_step, variables, batches, setup.mesh, check)
        result |= {f'{name}/{metric}': value for metric, value in values.items()}
    return result


def weight_sets(
    setup: Setup, state: TrainState, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Returns the weights to evaluate, by the prefix of their metrics.

    They are the trained variables ('validation' or 'test', by the split), their average if the run
    keeps one ('..._ema'), and with config.eval.precise_bn both with recomputed statistics
    ('..._precise').
    """
    name = functools.partial(metric_names.weights_name, setup.test.split_kind)
    result = {name(): state.variables()} | ({name(ema=True): state.ema} if state.ema else {})
    if setup.eval.precise_bn:
        result |= {
            f'{key}_precise': precise_variables(setup, state, variables, check)
            for key, variables in result.items()
        }
    return result


def precise_variables(
    setup: Setup, state: TrainState, weights: Any, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Returns `weights` with the statistics of config.eval.precise_bn training examples.

    The examples are the next ones of the training (at its end, those that would follow), in
    microbatches as in training; their number is rounded up to a multiple of the microbatch.

    Args:
      setup: the setup of the run.
      state: the state of the run, for the number of steps taken.
      weights: {'params', 'batch_stats'} on the mesh.
      check: called before every batch; may raise to stop.

    Raises UserError if there are no training images.
    """
    examples = setup.eval.precise_bn
    if setup.train is None:
        raise UserError(
            f'config.eval.precise_bn is {examples}, but {setup.data.name} has no images to train '
            'on: expected 0 here.'
        )
    step = int(state.step)
    iterator = pipeline.train_batches(
        setup.train,
        setup.data.at_size(setup.phases.at(step).size),
        batch=setup.microbatch,
        seed=setup.seed,
        num_classes=setup.info.num_classes,
        process=process(),
    )
    iterator.set_state({'step': step * setup.recipe.accumulate})
    with contextlib.closing(iterator):
        return precise_bn.with_precise_statistics(
            weights,
            iterator,
            setup.moments_step,
            setup.mesh,
            count=-(-examples // setup.microbatch),
            step=step,
            seed=setup.seed,
            check=check,
        )


# ------------------------------------------------------------------------------------------------
# Predictions by a protocol
# ------------------------------------------------------------------------------------------------


def predict(setup: Setup, variables: Any, protocol: str) -> Predictions:
    """Returns the predictions for all test images, on every process, see cls.evaluation.protocols.

    Batches have at most as many pixels as config.eval.batch images of the training size. One
    program is compiled for each shape of views: one for crops, and for dense protocols one for
    every image shape at a scale.

    Args:
      setup: the setup of the data and the model.
      variables: the variables, on setup.mesh.
      protocol: the name of the protocol.

    Raises:
      UserError: the protocol is unknown, the model cannot take images of its shapes, or an image
        has a label beyond the model's outputs.
    """
    chosen = protocols.find(protocol)
    model = protocols.dense_form(setup.model, setup.data) if chosen.dense else setup.model
    step = make_logits_step(model, setup.recipe, chosen.mirrored)
    jitted = jax.jit(step, out_shardings=meshes.replicated(setup.mesh))
    sharding = meshes.batch_sharding(setup.mesh)
    variables = meshes.whole(variables, setup.mesh)

    total = np.zeros((len(setup.test), model.num_classes))
    labels = np.zeros(len(total), np.int32)
    views = np.zeros(len(total), np.int64)
    for batch in _batches(setup, chosen):
        batch = meshes.put_batch(batch, sharding)
        if chosen.dense and not views.any():
            _check_shape(step, variables, batch, setup.init.model)
        logits, label, index = jax.device_get(jitted(variables, batch))
        real = index >= 0
        index, label = index[real], label[real]
        starts = np.flatnonzero(np.diff(index, prepend=-1))  # views of an image follow one another
        for of_views in logits[:, real]:
            total[index[starts]] += np.add.reduceat(_softmax(of_views), starts)
            views[index[starts]] += np.diff(starts, append=len(index))
        labels[index] = label
    if views.min() < 1 or views.min() != views.max():
        raise AssertionError(f'images have {views.min()} to {views.max()} views')
    if labels.min() < 0 or labels.max() >= total.shape[1]:
        wrong = int(np.flatnonzero((labels < 0) | (labels >= total.shape[1]))[0])
        raise UserError(
            f'Example {wrong} has the label {labels[wrong]}: expected 0 to {total.shape[1] - 1}.'
        )
    total /= views[0]
    return Predictions(total, labels)


def _softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(
        np.float64
    )  # so that no probability comes to 0, and none to that of another
    logits = np.exp(logits - logits.max(1, keepdims=True))
    return logits / logits.sum(1, keepdims=True)


def _check_shape(step: Callable, variables: Any, batch: Any, name: str) -> None:
    try:
        jax.eval_shape(step, variables, batch)
    except (TypeError, ValueError, flax.errors.FlaxError) as error:
        height, width = batch['image'].shape[1:3]
        raise UserError(
            f'{name} cannot take images of {height} x {width} pixels ({error}): dense protocols '
            'are for networks that end in a mean over positions, for VGG and PReLU-nets, and for '
            'scales no smaller than in training; choose others with config.eval.scales, or '
            'another config.eval.protocol.'
        ) from error


def _batches(setup: Setup, protocol: protocols.Protocol) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's share of batches with `image`, `label` and `index`, -1 for padding.

    Every process yields the same shapes in the same order.
    """
    full, devices = setup.eval_batch(), setup.mesh.size
    if protocol.views is None:
        share = full // jax.process_count()
        for step, batch in enumerate(setup.eval_batches()):
            index = step * full + jax.process_index() * share + np.arange(share, dtype=np.int32)
            index = np.where(batch['mask'], index, -1).astype(np.int32)
            yield {'image': batch['image'], 'label': batch['label'], 'index': index}
        return
    size = setup.data.eval_pixels
    for views in protocol.views(setup.eval, setup.data):
        for shape, indices in _groups(setup, views):
            fit = full * size**2 // (shape[0] * shape[1])
            wanted = min(max(fit, 1), len(indices) * views.count)
            yield from data_views.batches(
                setup.test,
                views,
                indices,
                shape,
                batch=-(-wanted // devices) * devices,
                process=process(),
            )


def _groups(setup: Setup, views: data_views.Views) -> list[tuple[tuple[int, int], np.ndarray]]:
    """Returns the shapes of views, the smallest first, with the images of each shape."""
    count = len(setup.test)
    if views.fixed:
        return [(views.shape(0, 0), np.arange(count, dtype=np.int32))]
    shapes = np.array([views.shape(*size) for size in _sizes(setup).tolist()])
    unique_shapes, group = np.unique(shapes, axis=0, return_inverse=True)
    groups = [
        np.flatnonzero(group.ravel() == i).astype(np.int32) for i in range(len(unique_shapes))
    ]
    order = sorted(
        range(len(unique_shapes)), key=lambda i: (unique_shapes[i].prod(), *unique_shapes[i])
    )
    return [(tuple(unique_shapes[i].tolist()), groups[i]) for i in order]


def _sizes(setup: Setup) -> np.ndarray:
    """Returns (N, 2), heights and widths of all test images; each process reads its share."""
    count, (index, processes) = len(setup.test), process()
    if isinstance(setup.test, InMemory):
        return np.tile(setup.test.shape[:2], (count, 1))
    share = -(-count // processes)
    sizes = data_views.sizes(setup.test, range(index * share, min((index + 1) * share, count)))
    if processes == 1:
        return sizes
    padded = np.concatenate([sizes, np.zeros((share - len(sizes), 2), np.int32)])
    return multihost_utils.process_allgather(padded).reshape(-1, 2)[:count]


# ------------------------------------------------------------------------------------------------
# The job
# ------------------------------------------------------------------------------------------------


def job(config: ConfigDict, workdir: Path, output: Path | None = None) -> dict[str, Any]:
    """Evaluates the newest checkpoint of a run: prints and returns the result, then writes it.

    Args:
      config: the config of the evaluation.
      workdir: the run folder.
      output: the folder for the files; None: the run folder, see `deliver`.

    Raises UserError if the run has no checkpoint. Also raises the errors of `predict` and
    `deliver`.
    """
    spec = EvalSpec.from_config(config)
    wanted = bool(spec.predictions)
    agreement.on_first('output', lambda: prepare(workdir, output, wanted))
    setup, state = restore(config, workdir)
    result: dict[str, Any] = {'step': int(state.step)} | conditions(setup)
    for name, variables in weight_sets(setup, state).items():
        predictions = scored(predict(setup, variables, spec.protocol), setup.test)
        result |= report(predictions, name, setup.info.class_names)
    agreement.print_once(summary(result))
    broken.report()

    def write_all(folder: Path) -> None:
        write(folder / runs.report_name(spec.title, config, workdir), result, predictions)
        if wanted:
            names = setup.info.class_names
            file = folder / spec.predictions
            metrics.write_predictions(file, predictions, names, setup.test.files)

    agreement.on_first('written', lambda: deliver(write_all, workdir, output, wanted))
    return result


def summary(values: dict[str, Any]) -> str:
    """Returns 'test top-1 98.31 %, top-5 99.72 %, loss 0.0712', and the same for other weights.

    On splits other than test it is 'validation top-1 ...'. For the result of a job the text also
    has the calibration error, the number of images, their split, and the protocol.
    """
    parts = []
    flags = {'ema': 'average of weights', 'precise': 'precise statistics'}
    for kind, precise_, ema in itertools.product(metric_names.KINDS, (False, True), (False, True)):
        name = metric_names.weights_name(kind, ema=ema, precise=precise_)
        shown = [words for flag, words in flags.items() if f'_{flag}' in name]
        title = f'{kind} ({", ".join(shown)})' if shown else kind
        if f'{name}/top1' in values:
            top1, top5, loss = (values[f'{name}/{metric}'] for metric in ('top1', 'top5', 'loss'))
            parts.append(f'{title} top-1 {top1:.2f} %, top-5 {top5:.2f} %, loss {loss:.4f}')
            if f'{name}/ece' in values:
                parts[-1] += f', calibration error {values[f"{name}/ece"]:.2f} %'
    if images := metric_names.figure(values, 'images'):
        split = f' of split {values["split"]!r}' if values.get('split') else ''
        parts.append(f'{images} images{split}, protocol {values["protocol"]}')
    return '; '.join(parts)


def conditions(setup: Setup) -> dict[str, Any]:
    """Returns the protocol, data and sizes of an evaluation, for its file."""
    data, spec = setup.data, setup.eval
    result = {
        'protocol': spec.protocol,
        'data': data.name,
        'split': setup.test.split,
        'size': data.eval_pixels,
        'resize': data.eval_shorter_side,
    }
    if protocols.find(spec.protocol).dense:
        result['scales'] = tuple(spec.scales) or (result['resize'],)
    return result


def scored(predictions: Predictions, source: Source) -> Predictions:
    """Returns the predictions as a test set scores them, see cls.evaluation.robustness."""
    pair = predictions.probabilities, predictions.labels
    return Predictions(*robustness.scored(*pair, source.subset, source.label_sets))


def report(predictions: Predictions, name: str, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns 'NAME/top1', ... and 'NAME/classes' of predictions."""
    values: dict[str, Any] = dict(metrics.scalars(predictions))
    values['classes'] = metrics.per_class(predictions, class_names)
    return {f'{name}/{metric}': value for metric, value in values.items()}


def write(path: Path, result: dict[str, Any], predictions: Predictions) -> None:
    """Writes PATH.json and PATH-confusion.npy."""
    matrix = metrics.confusion(predictions.probabilities, predictions.labels)
    metrics.write_confusion(path.with_name(path.name + '-confusion.npy'), matrix)
    write_json(path.with_name(path.name + '.json'), result)


def restore(config: ConfigDict, workdir: Path) -> tuple[Setup, TrainState]:
    """Returns the setup of a config, and the newest state of a run folder, without the optimizer's.

    Nothing in the folder is changed. Raises UserError if the run has no checkpoint.
    """
    if not (workdir / 'checkpoints').is_dir():
        raise UserError(f'{workdir} has no checkpoint to evaluate; train first (`cls train`).')
    classes = load_classes(workdir)
    setup = agreement.on_all('set-up', lambda: set_up(config, classes=classes))
    if not classes and (names := setup.test.class_names):
        agreement.print_once(
            f'nothing in {workdir} names the outputs of the network: they are taken for the '
            f'{len(names)} classes of {setup.data.name} in the order {", ".join(names[:4])}'
            f'{", ..." if len(names) > 4 else ""} (classes.json would name them).'
        )
    shapes, _ = setup.new_state_shapes()
    where = abstract_state(shapes, setup.mesh)
    wanted = where.replace(opt_state=unread(where.opt_state))
    restored = restore_newest(workdir / 'checkpoints', wanted)
    if restored is None:
        raise UserError(f'{workdir} has no checkpoint to evaluate; train first (`cls train`).')
    return setup, restored.replace(opt_state=())

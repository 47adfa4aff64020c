"""Evaluation: every image of a split exactly once, on any number of devices and processes.

During training, sums over the center crops are enough (`evaluate_batches`). Afterwards, `--job
evaluate` computes the prediction of each image (`predict`), by a protocol of
cls.evaluation.protocols:

  python -m cls.main --job evaluate --workdir runs/NAME --config.eval.protocol=ten_crop

It writes these files to the run folder:

  evaluation.json     top-1, top-5, loss, calibration error and its bins, the most confident
                      mistakes, and precision, recall, F1 and AUROC of each class and their means
                      (cls.evaluation.metrics defines them); for other protocols
                      evaluation-PROTOCOL.json, with the values of data fields that differ from
                      those of the run in the name
  ...-confusion.npz   the confusion matrix, sparse: scipy.sparse.load_npz reads it, and
                      numpy.load the `names` of its rows and columns
  NAME.csv            the predictions, if config.eval.predictions has that value

Of images with several labels it writes their mean average precision and that of each class, and
no confusion matrix.

The latter two are of the average of the weights, if the run keeps one. `--output DIR` writes all
files to DIR. The result is printed first. A run folder that cannot be written to, or that another
process uses, is not changed.

May import: anything but ensemble, main, recipes, search, tools, train.
"""

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax.errors
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cls.config import runs
from cls.data import broken, pipeline
from cls.data import views as data_views
from cls.data.readers import eval_reader, reading_threads
from cls.distributed import agreement
from cls.errors import UserError
from cls.evaluation import plan as plans
from cls.evaluation import precise_bn, protocols, several, tables
from cls.evaluation.average import MeanOfViews, Part, sigmoids, softmax
from cls.evaluation.files import Listing, write_confusion, write_probabilities
from cls.evaluation.measure import measure
from cls.evaluation.metrics import Tally
from cls.evaluation.plan import Plan
from cls.evaluation.protocols import EvalSpec
from cls.evaluation.ranking import average_precisions, mean_average_precision
from cls.run import metric_names
from cls.run.best import Standing
from cls.run.checkpoint import restore_newest, unread
from cls.run.checkpoint_files import best_or_newest, describe, newest_step
from cls.run.reports import deliver, prepare
from cls.run.telemetry import write_json
from cls.run.workdir import load_classes
from cls.setup import Setup, abstract_state, compiled_like, process, set_up
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
    confusion: np.ndarray | None = None,
) -> dict[str, float]:
    """Returns top-1 and top-5 in percent and the mean loss in nats, over all images.

    For images with several labels also the mean average precision, 'map', in percent; the scores of
    all images are in memory until then.

    Args:
      eval_step: (variables, batch) -> sums.
      variables: the variables, on the mesh.
      batches: this process's share of the padded and masked batches.
      mesh: the mesh of the devices.
      check: called before every batch; may raise to end the evaluation.
      confusion: (K, K) to which images are added, by class and prediction; None: none.
    """
    ranked: list[tuple[np.ndarray, np.ndarray]] = []
    sharding = meshes.batch_sharding(mesh)
    variables = meshes.whole(variables, mesh)
    totals = {'top1': 0, 'top5': 0, 'loss': 0.0, 'count': 0}
    for batch in batches:
        check()
        sums = jax.device_get(eval_step(variables, meshes.put_batch(batch, sharding)))
        totals = {name: total + sums[name].item() for name, total in totals.items()}
        if 'scores' in sums:
            ranked.append((sums['scores'][sums['mask']], sums['labels'][sums['mask']]))
        elif confusion is not None:
            real = sums['label'] >= 0
            np.add.at(confusion, (sums['label'][real], sums['guess'][real]), 1)
    count = totals.pop('count')
    result = {
        'top1': 100 * totals['top1'] / count,
        'top5': 100 * totals['top5'] / count,
        'loss': totals['loss'] / count,
    }
    if ranked:
        scores, labels = (np.concatenate(parts) for parts in zip(*ranked, strict=True))
        result['map'] = mean_average_precision(average_precisions(scores, labels))
    return result


def evaluate_state(
    setup: Setup,
    eval_step: EvalStep,
    state: TrainState,
    check: Callable[[], None] = lambda: None,
    final: bool = False,
    confusion: np.ndarray | None = None,
) -> dict[str, float]:
    """Returns 'validation/top1' or 'test/top1', ... of each of the `weight_sets`.

    Args:
      setup: the setup of the run.
      eval_step: (variables, batch) -> sums.
      state: the state of the run.
      check: called before every batch; may raise to end the evaluation.
      final: whether to evaluate the images to test on, not those of evaluations during the
        training; without config.eval.validation they are the same.
      confusion: (K, K) to which images are added, by class and prediction of the last set of
        weights; None: none.
    """
    result, weights = {}, weight_sets(setup, state, check, final)
    for name, variables in weights.items():
        batches, counts = setup.eval_batches(final), confusion if name == [*weights][-1] else None
        values = evaluate_batches(eval_step, variables, batches, setup.mesh, check, counts)
        result |= {f'{name}/{metric}': value for metric, value in values.items()}
    return result


def weight_sets(
    setup: Setup,
    state: TrainState,
    check: Callable[[], None] = lambda: None,
    final: bool = True,
) -> dict[str, Any]:
    """Returns the weights to evaluate, by the prefix of their metrics.

    They are the trained variables ('validation' or 'test', see `Setup.kind`), their average if the
    run keeps one ('..._ema'), and with config.eval.precise_bn both with recomputed statistics
    ('..._precise').
    """
    name = functools.partial(metric_names.weights_name, setup.kind(final))
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


def plan(setup: Setup, protocol: str) -> Plan:
    """Returns the plan of an evaluation by a protocol. Raises UserError if there is none."""
    batching = plans.Batching(setup.eval_batch(), setup.mesh.size, process())
    return plans.plan(protocols.find(protocol), setup.eval, setup.data, setup.test, batching)


def predict(setup: Setup, variables: Any, plan: Plan) -> Iterator[Part]:
    """Yields the predictions for this process's share of the test images, batch by batch.

    One program is compiled for each shape of views: one for crops, and for dense protocols one for
    every image shape at a scale.

    Args:
      setup: the setup of the data and the model.
      variables: the variables, on setup.mesh.
      plan: the views of the images.

    Raises:
      UserError: the model cannot take images of the shapes of the views.
    """
    dense = plan.protocol.dense
    model = protocols.dense_form(setup.model, setup.data) if dense else setup.model
    step = make_logits_step(model, setup.recipe, plan.protocol.mirrored)
    programs: dict[tuple[int, ...], Callable[[Any, jax.Array], jax.Array]] = {}
    sharding = meshes.batch_sharding(setup.mesh)
    variables = meshes.whole(variables, setup.mesh)

    views = sum(scale.count for scale in plan.scales)
    mean, done = MeanOfViews(views, sigmoids if setup.recipe.multi_label else softmax), 0
    for batch in _batches(setup, plan):
        images = meshes.put_batch(batch['image'], sharding)
        if dense and not done:
            _check_shape(step, variables, images, setup.init.model)
        if images.shape not in programs:
            where = meshes.batch_sharding(setup.mesh, 1)
            programs[images.shape] = compiled_like(step, (variables, images), where)
        logits = meshes.local_rows(programs[images.shape](variables, images), 1)
        done += batch['views']
        real = int((batch['index'] >= 0).sum())  # the rows after them are padding
        complete = mean.add(logits[:, :real], batch['label'][:real], batch['index'][:real])
        yield Part(complete, done / (views * len(plan.order)))
    if mean.begun:
        raise AssertionError(f'{mean.begun} images lack some of their {views} views')


def _check_shape(step: Callable, variables: Any, images: jax.Array, name: str) -> None:
    try:
        jax.eval_shape(step, variables, images)
    except (TypeError, ValueError, flax.errors.FlaxError) as error:
        height, width = images.shape[1:3]
        raise UserError(
            f'{name} cannot take images of {height} x {width} pixels ({error}): dense protocols '
            'are for networks that end in a mean over positions, for VGG and PReLU-nets, and for '
            'scales no smaller than in training; choose others with config.eval.scales, or '
            'another config.eval.protocol.'
        ) from error


def _batches(setup: Setup, plan: Plan) -> Iterator[dict[str, Any]]:
    """Yields this process's share of the batches, see cls.data.views.batches."""
    threads = reading_threads(setup.test)
    crop = eval_reader(setup.test, setup.data, threads)

    def center_crops(images: Sequence[int]) -> tuple[Any, Any]:
        pixels, labels = crop(np.array(images), np.array(images))
        return [[each[None]] for each in pixels], list(labels)

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        read = data_views.reader(setup.test, plan.views, pool) if plan.views else center_crops
        label = setup.test.label_shape, setup.test.label_dtype
        scales, channels = plan.scales, setup.test.channels
        yield from data_views.batches(read, plan.order, scales, channels, process(), label)


# ------------------------------------------------------------------------------------------------
# The job
# ------------------------------------------------------------------------------------------------


def job(config: ConfigDict, workdir: Path, output: Path | None = None) -> dict[str, Any]:
    """Evaluates a checkpoint of a run: prints and returns the result, then writes it.

    It is the best one if the run keeps that, see `restore`, else the newest.

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
    names, classes = setup.info.class_names, setup.model.num_classes

    def write_files(write_all: Callable[[Path, str], None]) -> None:
        report = runs.report_name(spec.title, config, workdir)

        def write_to(folder: Path) -> None:
            write_all(folder, report)

        agreement.on_first('written', lambda: deliver(write_to, workdir, output, wanted))

    if setup.recipe.multi_label:
        return _several_labels(setup, state, result, write_files)
    weights, the_plan = weight_sets(setup, state), plan(setup, spec.protocol)
    *_, last = weights
    with Listing(kept=wanted and agreement.is_main_process()) as listing:
        for name, variables in weights.items():
            parts = (part.predictions for part in predict(setup, variables, the_plan))
            listed = listing if wanted and name == last else None
            tally = measure(parts, setup.test, classes, listed, names)
            result |= tables.values(tally, name, setup.test.files)
        agreement.print_once('\n'.join([summary(result), *tables.class_lines(result, last)]))
        broken.report()

        def write_all(folder: Path, report: str) -> None:
            write(folder / report, result, tally)
            if wanted:
                listing.write(folder / spec.predictions, classes, names, setup.test.files)

        write_files(write_all)
    return result


def _several_labels(
    setup: Setup,
    state: TrainState,
    result: dict[str, Any],
    write_files: Callable[[Callable[[Path, str], None]], None],
) -> dict[str, Any]:
    """Evaluates images with several labels; see `job`.

    The result has 'NAME/map' and the average precision of each class.

    Args:
      setup: the setup of the evaluation.
      state: the state of the run.
      result: the values that are known before.
      write_files: calls a function that writes files, with the folder and the name of the report.
    """
    the_plan, names = plan(setup, setup.eval.protocol), setup.info.class_names
    for name, variables in weight_sets(setup, state).items():
        parts = (part.predictions for part in predict(setup, variables, the_plan))
        ranking = several.rank(parts, len(setup.test))
        result |= {f'{name}/{metric}': value for metric, value in ranking.values(names).items()}
    agreement.print_once(summary(result))
    broken.report()

    def write_all(folder: Path, report: str) -> None:
        write_json(folder / f'{report}.json', result)
        if setup.eval.predictions:
            path = folder / setup.eval.predictions
            each = map(ranking.probabilities, range(len(setup.test)))
            write_probabilities(path, ranking.labels, each, names, setup.test.files)

    write_files(write_all)
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
            if f'{name}/map' in values:
                parts[-1] = (
                    f'{title} mAP {values[f"{name}/map"]:.2f} %, ' + parts[-1][len(title) + 1 :]
                )
            if f'{name}/ece' in values:
                parts[-1] += f', calibration error {values[f"{name}/ece"]:.2f} %'
    if images := metric_names.figure(values, 'images'):
        split = f' of split {values["split"]!r}' if values.get('split') else ''
        parts.append(f'{images} images{split}, protocol {values["protocol"]}')
    return '; '.join(parts)


def in_words(setup: Setup, best: Standing | None = None) -> str:
    """Returns a sentence on the images and the weights of a result's figures.

    Without config.eval.validation and config.checkpoint.best it is ''.

    Args:
      setup: the setup of the run.
      best: the best evaluation, whose weights were chosen; None: the weights are the last ones.
    """
    if setup.validation is None and best is None:
        return ''
    watched, test = setup.watched, setup.test
    weights = 'on the last weights'
    if best:
        weights = f'on the weights of step {best.step}, the best by {best.metric}'
    figures = f'validation figures are of {len(watched):,} images ({watched.split})'
    if setup.tested_once:
        return (
            f'{figures}; the {len(test):,} images of split {test.split!r} were evaluated once, '
            f'after the training, {weights}.'
        )
    chosen = ', and the same images chose the step' if best else ''
    others = '; there are no other images to test on' if setup.validation else ''
    return f'{figures}, {weights}{chosen}{others}.'


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
    if data.is_squashed:
        result['crop'] = data.eval_crop
    if protocols.find(spec.protocol).dense:
        result['scales'] = tuple(spec.scales) or (result['resize'],)
    return result


def write(path: Path, result: dict[str, Any], tally: Tally) -> None:
    """Writes PATH.json and PATH-confusion.npz."""
    write_confusion(path.with_name(path.name + '-confusion.npz'), tally)
    write_json(path.with_name(path.name + '.json'), result)


def restore(config: ConfigDict, workdir: Path) -> tuple[Setup, TrainState]:
    """Returns the setup of a config, and the state of a run folder, without the optimizer's.

    The state is that of the best checkpoint if config.checkpoint.best is set and there is one, else
    that of the newest. Nothing in the folder is changed.

    Raises UserError if the run has no checkpoint.
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
    choose = best_or_newest if config.checkpoint.best else newest_step
    restored = restore_newest(workdir / 'checkpoints', wanted, choose)
    if restored is None:
        raise UserError(f'{workdir} has no checkpoint to evaluate; train first (`cls train`).')
    weights = describe(workdir / 'checkpoints', int(restored.step))
    if config.checkpoint.best or 'best' in weights:
        agreement.print_once(f'weights of {workdir}: {weights}')
    return setup, restored.replace(opt_state=())

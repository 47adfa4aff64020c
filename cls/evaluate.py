"""Evaluation: every image of a split exactly once, on any number of devices and processes.

While training, sums over the centre crops are enough (`evaluate`). Afterwards, `--job evaluate`
keeps what each image got (`predict`), by any protocol of cls.evaluation.protocols:

  python -m cls.main --job evaluate --workdir runs/NAME --config.eval.protocol=ten_crop

It writes to the run folder evaluation.json, or evaluation-PROTOCOL.json (and, where data fields are
not those of the run, their values in the name): top-1, top-5, loss, calibration error, and each
class's accuracy; the confusion matrix beside it, evaluation...-confusion.npy; and if
config.eval.predictions is NAME.csv, what each image got. Where an average of the weights is kept,
the latter two are of that. `--output DIR` writes all of it to DIR. A run folder that cannot be
written to, or in which another process is running, stays as it is; the result is printed first.

May import: anything but ensemble, main, search, tools, train.
"""

import contextlib
import functools
import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import flax.errors
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cls.config import load as configs
from cls.data import broken, transforms
from cls.data import views as data_views
from cls.data.sources import InMemory, Source
from cls.distributed import agreement
from cls.errors import UserError, reason
from cls.evaluation import metrics, precise_bn, protocols, robustness
from cls.evaluation.metrics import Predictions
from cls.run import metric_names
from cls.run.checkpoint import restore_newest
from cls.run.telemetry import write_json
from cls.run.workdir import exclusive, load_classes, saved_config
from cls.setup import Setup, abstract_state, process, set_up
from cls.steps import sharding as meshes
from cls.steps.state import TrainState
from cls.steps.train_step import make_logits_step
from cls.storage import paths

log = logging.getLogger(__name__)

EvalStep = Callable[[Any, Any], dict[str, jax.Array]]

# Fields that tell an evaluation from another of the same weights, in an ensemble a member's.
_MATTERS = re.compile(r'(members\.(?P<member>[^.]+\.))?(data|model)\.(.+\.)?(?P<field>[^.]+)')


def evaluate(
    eval_step: EvalStep,
    variables: Any,
    batches: Iterable[Any],
    mesh: Mesh,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Returns top-1 and top-5 in percent and the mean loss in nats, over all images.

    Args:
      eval_step: (variables, batch) -> sums.
      variables: on the mesh.
      batches: this process's share of the padded and masked batches.
      mesh: of the devices.
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
    """Returns 'validation/top1' or 'test/top1', ... of each of `weights`."""
    result = {}
    for name, variables in weights(setup, state, check).items():
        values = evaluate(eval_step, variables, setup.test_batches(), setup.mesh, check)
        result |= {f'{name}/{metric}': value for metric, value in values.items()}
    return result


def weights(
    setup: Setup, state: TrainState, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Returns the weights to evaluate, by the name of their figures.

    They are the variables as trained ('validation' or 'test', by the split), if kept their average
    ('..._ema'), and with config.eval.precise_bn both with recomputed statistics ('..._precise').
    """
    name = functools.partial(metric_names.weights_name, setup.test.split_kind)
    result = {name(): state.variables()} | ({name(ema=True): state.ema} if state.ema else {})
    if setup.config.eval.precise_bn:
        result |= {
            f'{key}_precise': precise_bn.variables(setup, state, variables, check)
            for key, variables in result.items()
        }
    return result


# ------------------------------------------------------------------------------------------------
# Predictions by a protocol
# ------------------------------------------------------------------------------------------------


def predict(setup: Setup, variables: Any, protocol: str) -> Predictions:
    """Returns what a net says of all test images, on every process: see cls.evaluation.protocols.

    Batches have at most as many pixels as config.eval.batch images of training's size, and one
    program is compiled for each shape of views: one for crops, for dense protocols one for every
    shape that images have at a scale.

    Args:
      setup: of the data and the net.
      variables: on setup.mesh.
      protocol: the name of one.

    Raises:
      UserError: the protocol is unknown or the net cannot take images of its shapes, or an image
        has a label that the net has not.
    """
    chosen = protocols.find(protocol)
    model = protocols.dense_form(setup.model, setup.config) if chosen.dense else setup.model
    step = make_logits_step(model, setup.recipe, chosen.mirrored)
    jitted = jax.jit(step, out_shardings=meshes.replicated(setup.mesh))
    sharding = meshes.batch_sharding(setup.mesh)
    variables = meshes.whole(variables, setup.mesh)

    total = np.zeros((len(setup.test), model.num_classes))
    labels = np.zeros(len(total), np.int32)
    seen = np.zeros(len(total), np.int64)
    for batch in _batches(setup, chosen):
        batch = meshes.put_batch(batch, sharding)
        if chosen.dense and not seen.any():
            _check_shape(step, variables, batch, setup.config.model.name)
        logits, label, index = jax.device_get(jitted(variables, batch))
        real = index >= 0
        index, label = index[real], label[real]
        starts = np.flatnonzero(np.diff(index, prepend=-1))  # views of an image follow one another
        for of_views in logits[:, real]:
            total[index[starts]] += np.add.reduceat(_softmax(of_views), starts)
            seen[index[starts]] += np.diff(starts, append=len(index))
        labels[index] = label
    if seen.min() < 1 or seen.min() != seen.max():
        raise AssertionError(f'images were seen {seen.min()} to {seen.max()} times')
    if labels.min() < 0 or labels.max() >= total.shape[1]:
        wrong = int(np.flatnonzero((labels < 0) | (labels >= total.shape[1]))[0])
        raise UserError(
            f'Example {wrong} has the label {labels[wrong]}: expected 0 to {total.shape[1] - 1}.'
        )
    total /= seen[0]
    return Predictions(total, labels)


def _softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.float64(logits)  # so that no probability comes to 0, and none to that of another
    logits = np.exp(logits - logits.max(1, keepdims=True))
    return logits / logits.sum(1, keepdims=True)


def _check_shape(step: Callable, variables: Any, batch: Any, name: str) -> None:
    try:
        jax.eval_shape(step, variables, batch)
    except (TypeError, ValueError, flax.errors.FlaxError) as error:
        height, width = batch['image'].shape[1:3]
        raise UserError(
            f'{name} cannot take images of {height} x {width} pixels ({error}): dense protocols '
            'are for nets that end in a mean over positions, for VGG and PReLU-nets, and for '
            'scales no smaller than training had; choose others with config.eval.scales, or '
            'another config.eval.protocol.'
        ) from error


def _batches(setup: Setup, protocol: protocols.Protocol) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's share of batches with `image`, `label` and `index`, -1 for padding.

    Every process goes through the same shapes in the same order.
    """
    full, devices = setup.eval_batch(), setup.mesh.size
    if protocol.views is None:
        share = full // jax.process_count()
        for step, batch in enumerate(setup.test_batches()):
            index = step * full + jax.process_index() * share + np.arange(share, dtype=np.int32)
            index = np.where(batch['mask'], index, -1).astype(np.int32)
            yield {'image': batch['image'], 'label': batch['label'], 'index': index}
        return
    size = transforms.eval_size(setup.config.data)
    for views in protocol.views(setup.config):
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
    """Returns the shapes of views, the smallest first, and the images that have them."""
    count = len(setup.test)
    if views.fixed:
        return [(views.shape(0, 0), np.arange(count, dtype=np.int32))]
    shapes = np.array([views.shape(*size) for size in _sizes(setup).tolist()])
    found, group = np.unique(shapes, axis=0, return_inverse=True)
    groups = [np.flatnonzero(group.ravel() == i).astype(np.int32) for i in range(len(found))]
    order = sorted(range(len(found)), key=lambda i: (found[i].prod(), *found[i]))
    return [(tuple(found[i].tolist()), groups[i]) for i in order]


def _sizes(setup: Setup) -> np.ndarray:
    """Returns (N, 2), heights and widths of all test images; each process looks at its share."""
    count, (index, processes) = len(setup.test), process()
    if isinstance(setup.test, InMemory):
        return np.tile(setup.test.shape[:2], (count, 1))
    share = -(-count // processes)
    mine = data_views.sizes(setup.test, range(index * share, min((index + 1) * share, count)))
    if processes == 1:
        return mine
    padded = np.concatenate([mine, np.zeros((share - len(mine), 2), np.int32)])
    return multihost_utils.process_allgather(padded).reshape(-1, 2)[:count]


# ------------------------------------------------------------------------------------------------
# The job
# ------------------------------------------------------------------------------------------------


def job(config: ConfigDict, workdir: Path, output: Path | None = None) -> dict[str, Any]:
    """Evaluates the newest checkpoint of a run: prints and returns the result, then writes it.

    Args:
      config: of the evaluation.
      workdir: of the run.
      output: the folder for evaluation....json and the like; None: the run folder, see `deliver`.

    Raises UserError when the run has no checkpoint, and as `predict` and `deliver`.
    """
    name = predictions_file(config)
    agreement.on_first('output', lambda: prepare(workdir, output, wanted=bool(name)))
    setup, state = restore(config, workdir)
    result: dict[str, Any] = {'step': int(state.step)} | conditions(config, setup.test.split)
    for of, variables in weights(setup, state).items():
        found = scored(predict(setup, variables, config.eval.protocol), setup.test)
        result |= report(found, of, setup.info.class_names)
    agreement.print_once(summary(result))
    broken.report()

    def write_all(folder: Path) -> None:
        write(folder / stem(protocols.title(config), config, workdir), result, found)
        if name:
            names = setup.info.class_names
            metrics.write_predictions(folder / name, found, names, setup.test.files)

    agreement.on_first('written', lambda: deliver(write_all, workdir, output, wanted=bool(name)))
    return result


def prepare(workdir: Path, output: Path | None, wanted: bool = False) -> None:
    """Raises UserError, before anything is computed, where the files could not be written.

    Args:
      workdir: of the run.
      output: the folder for the files, which is made; None: the run folder.
      wanted: whether there are files that somebody asked for.
    """
    if output is not None:
        _write(lambda folder: paths.write_whole(folder / '.probe', b''), output)
        (output / '.probe').unlink()
    elif wanted:
        deliver(lambda folder: None, workdir, None, wanted=True)


def deliver(
    write: Callable[[Path], None], workdir: Path, output: Path | None, wanted: bool = False
) -> None:
    """Has files written to `output`, or to a run folder if this process can claim it for that.

    A folder in which another process is running, or that cannot be written to, stays as it is, and
    a line says so.

    Args:
      write: called with the folder.
      workdir: of the run.
      output: the folder for the files; None: the run folder.
      wanted: whether it is an error that they are not written.

    Raises:
      UserError: `output` cannot be written to; with `wanted`, the run folder neither.
    """
    if output is not None:
        _write(write, output)
        return
    try:
        with contextlib.ExitStack() as stack:
            if paths.is_remote(workdir):
                stack.enter_context(paths.explained(workdir))
            stack.enter_context(exclusive(workdir))
            write(workdir)
    except (UserError, OSError) as error:
        why = str(error) if isinstance(error, UserError) else reason(error) or str(error)
        text = f'nothing is written to {workdir}: {why.rstrip(".")}. Give --output DIR.'
        if wanted:
            raise UserError(text) from error
        log.info(text)


def _write(write: Callable[[Path], None], output: Path) -> None:
    try:
        paths.make_folder(output)
        write(output)
    except OSError as error:
        raise UserError(
            f'--output {output} cannot be written to ({reason(error) or error}): choose another.'
        ) from error


def summary(values: dict[str, Any]) -> str:
    """Returns 'test top-1 98.31 %, top-5 99.72 %, loss 0.0712' and the same of other weights.

    On other splits than test it is 'validation top-1 ...'.

    Of the job's values also the calibration error, the number of images, their split, and the
    protocol.
    """
    parts = []
    flags = {'ema': 'average of weights', 'precise': 'precise statistics'}
    for kind, precise_, ema in itertools.product(metric_names.KINDS, (False, True), (False, True)):
        name = metric_names.weights_name(kind, ema=ema, precise=precise_)
        said = [words for flag, words in flags.items() if f'_{flag}' in name]
        title = f'{kind} ({", ".join(said)})' if said else kind
        if f'{name}/top1' in values:
            top1, top5, loss = (values[f'{name}/{metric}'] for metric in ('top1', 'top5', 'loss'))
            parts.append(f'{title} top-1 {top1:.2f} %, top-5 {top5:.2f} %, loss {loss:.4f}')
            if f'{name}/ece' in values:
                parts[-1] += f', calibration error {values[f"{name}/ece"]:.2f} %'
    if images := metric_names.figure(values, 'images'):
        split = f' of split {values["split"]!r}' if values.get('split') else ''
        parts.append(f'{images} images{split}, protocol {values["protocol"]}')
    return '; '.join(parts)


def conditions(config: ConfigDict, split: str) -> dict[str, Any]:
    """Returns what an evaluation depends on beside the weights, for its file.

    Args:
      config: of the evaluation.
      split: the one that was read, `Source.split`.
    """
    data = config.data
    size = transforms.eval_size(data)
    found = {
        'protocol': config.eval.protocol,
        'data': data.name,
        'split': split,
        'size': size,
        'resize': data.eval_resize or size,
    }
    if protocols.find(config.eval.protocol).dense:
        found['scales'] = tuple(config.eval.scales) or (found['resize'],)
    return found


def scored(predictions: Predictions, source: Source) -> Predictions:
    """Returns the predictions as a test set has them scored, see cls.evaluation.robustness."""
    found = predictions.probabilities, predictions.labels
    return Predictions(*robustness.scored(*found, source.subset, source.label_sets))


def report(predictions: Predictions, name: str, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns 'NAME/top1', ... and 'NAME/classes' of what weights predict."""
    values = metrics.scalars(predictions)
    values['classes'] = metrics.per_class(predictions, class_names)
    return {f'{name}/{metric}': value for metric, value in values.items()}


def write(path: Path, result: dict[str, Any], predictions: Predictions) -> None:
    """Writes PATH.json and PATH-confusion.npy."""
    matrix = metrics.confusion(predictions.probabilities, predictions.labels)
    metrics.write_confusion(path.with_name(path.name + '-confusion.npy'), matrix)
    write_json(path.with_name(path.name + '.json'), result)


def stem(protocol: str, config: ConfigDict, workdir: Path) -> str:
    """Returns the name, without its end, of the file for an evaluation in a run folder.

    Evaluations that can differ have different names: 'evaluation', 'evaluation-dense-256-512',
    'evaluation-ten_crop-eval_size=288'.

    Args:
      protocol: `protocols.title`.
      config: of the evaluation, of a run or an ensemble.
      workdir: the folder; its config.json says what is usual.
    """
    parts = [protocol] if protocol != 'single' else []
    saved = saved_config(workdir)
    before = dict(configs.flatten(configs.from_json(saved))) if saved else {}
    for name, value in configs.flatten(config):
        found = _MATTERS.fullmatch(name)
        if found and name in before and value != before[name] and not configs.is_outward(name):
            parts.append(f'{found["member"] or ""}{found["field"]}={value}')
    name = '-'.join(['evaluation', *parts])
    if len(name) > 150:  # file systems allow 255
        name = f'{name[:150]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}'
    return re.sub(r'[^\w.=,-]+', '_', name)


def predictions_file(config: ConfigDict) -> str:
    """Returns the file for what each image got, '' for none. Raises UserError for another name."""
    protocols.check(config)
    return config.eval.predictions


def restore(config: ConfigDict, workdir: Path) -> tuple[Setup, TrainState]:
    """Returns what a config sets up, and the newest state of a run folder.

    Nothing in the folder is changed. Raises UserError when the run has no checkpoint.
    """
    if not (workdir / 'checkpoints').is_dir():
        raise UserError(f'{workdir} has no checkpoint to evaluate; train first (--job train).')
    classes = load_classes(workdir)
    setup = agreement.on_all('set-up', lambda: set_up(config, classes=classes))
    if not classes and (names := setup.test.class_names):
        agreement.print_once(
            f'nothing in {workdir} names the outputs of the network: they are taken for the '
            f'{len(names)} classes of {config.data.name} in the order {", ".join(names[:4])}'
            f'{", ..." if len(names) > 4 else ""} (classes.json would name them).'
        )
    state, _ = setup.new_state()
    restored = restore_newest(workdir / 'checkpoints', abstract_state(state, setup.mesh))
    if restored is None:
        raise UserError(f'{workdir} has no checkpoint to evaluate; train first (--job train).')
    return setup, restored

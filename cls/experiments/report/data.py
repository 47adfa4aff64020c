"""The content of a report: the files of a run, its evaluation, its model and its mistakes."""

import contextlib
import dataclasses
import io
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cls import evaluate
from cls.config import durations
from cls.config import runs as configs
from cls.data.readers import eval_reader, reading_threads
from cls.errors import UserError, reason
from cls.evaluation.protocols import EvalSpec
from cls.experiments.report.matrix import Confusion
from cls.experiments.runs import RunData, load_json
from cls.inference import explaining, loading, summarizing
from cls.inference.model import Model
from cls.inference.preprocess import Preprocess
from cls.run import checkpoint_files
from cls.run.workdir import exclusive
from cls.storage import paths

log = logging.getLogger(__name__)

_NEEDED = ('top1', 'f1', 'classes', 'calibration', 'mistakes')  # of an evaluation's file


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation of a run.

    Attributes:
      weights: the prefix of the metrics of the weights in detail, as 'test' or 'validation_ema'.
      values: the content of its file.
      confusion: the confusion matrix; None for images with several labels.
      origin: a sentence on where the numbers are from.
    """

    weights: str
    values: Mapping[str, Any]
    confusion: Confusion | None
    origin: str

    def __getitem__(self, metric: str) -> Any:
        """Returns a metric of the weights, as 'top1'."""
        return self.values[f'{self.weights}/{metric}']

    def get(self, metric: str) -> Any:
        """Returns a metric of the weights, None if there is none."""
        return self.values.get(f'{self.weights}/{metric}')


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A wrong prediction, with its image as the network sees it.

    Attributes:
      values: its entry in the evaluation's file.
      pixels: (size, size, C) uint8.
      of_prediction: the image with the pixels that speak for the predicted class in color,
        (size, size, 3) uint8.
      of_class: the same for the right class.
      method: a sentence on these maps.
    """

    values: Mapping[str, Any]
    pixels: np.ndarray
    of_prediction: np.ndarray
    of_class: np.ndarray
    method: str


@dataclasses.dataclass(frozen=True)
class Details:
    """All that a report shows of one run.

    Attributes:
      run: the files of its folder.
      environment: the content of environment.json; {} if there is none.
      steps: the number of steps of the run; None if it is unknown.
      examples: the number of training images; None if it is unknown.
      stages: the summary of the network; () if there is no checkpoint.
      evaluation: its evaluation, or None.
      mistakes: the most confident mistakes; () without their images.
      missing: a sentence for each part that could not be made.
    """

    run: RunData
    environment: Mapping[str, Any]
    steps: int | None
    examples: int | None
    stages: Sequence[summarizing.Row]
    evaluation: Evaluation | None
    mistakes: Sequence[Mistake]
    missing: Sequence[str]


def check(run: RunData) -> None:
    """Raises UserError for a folder that is not the run of one network."""
    if 'members' in run.config:
        raise UserError(
            f'{run.folder} is the run of an ensemble: expected runs of one network; its folders '
            'have those of its members.'
        )
    if 'search' in run.config or 'model' not in run.config:
        raise UserError(
            f'{run.folder} is the run of a search: expected runs of one network; '
            '`cls search-report` reports on searches.'
        )


def details(run: RunData) -> Details:
    """Returns the content of a run's report; evaluates the run unless its folder has that already.

    A run without a checkpoint, and one whose data cannot be opened, has fewer parts.
    """
    examples = _examples(run.folder)
    missing: list[str] = []
    stages: Sequence[summarizing.Row] = ()
    found: Evaluation | None = None
    mistakes: Sequence[Mistake] = ()
    if not checkpoint_files.steps(run.folder / checkpoint_files.PLACE):
        missing.append(
            'The run folder has no checkpoint: without evaluation and summary of the network.'
        )
    else:
        try:
            found = evaluation(run.folder)
            model, source = opened(run.folder, found)
            mistakes = with_images(model, source, found) if found.confusion else ()
        except (UserError, OSError) as error:
            why = str(error) if isinstance(error, UserError) else reason(error) or str(error)
            parts = 'images of the mistakes' if found else 'evaluation and mistakes'
            missing.append(f'Without {parts}: {why}')
            model = _model(run.folder, missing)
        stages = _stages(model) if model else ()
    return Details(
        run=run,
        environment=load_json(run.folder / 'environment.json') or {},
        steps=_steps(run, examples),
        examples=examples,
        stages=stages,
        evaluation=found,
        mistakes=mistakes,
        missing=missing,
    )


def _examples(folder: Path) -> int | None:
    data = load_json(folder / 'data.json')
    part = data.get('train') if isinstance(data, dict) else None
    count = part.get('examples') if isinstance(part, dict) else None
    return count if isinstance(count, int) else None


def _steps(run: RunData, examples: int | None) -> int | None:
    """Returns the number of steps of a run, None if it is unknown."""
    if examples is None:
        return None
    with contextlib.suppress(UserError, KeyError):
        batch, duration = run.config['batch'], run.config['duration']
        return durations.steps(duration, batch=batch, examples=examples)
    return None


# ---------------------------------------------------------------------------------- evaluation


def evaluation(folder: Path) -> Evaluation:
    """Returns the evaluation of a run by its own protocol.

    It is read from the run folder if it is of the checkpoint that `cls evaluate` would take.
    Otherwise the run is evaluated as by that command, and the files are kept in the folder if
    possible.

    Raises UserError if the run cannot be evaluated.
    """
    config = configs.load_config(folder, [('eval.predictions', '')])
    name = configs.report_name(EvalSpec.from_config(config).title, config, folder)
    found = _read(folder, name)
    if found is not None and found.values.get('step') == _step(config, folder):
        return found
    log.info('evaluating %s for its report', folder)
    with tempfile.TemporaryDirectory() as temporary:
        evaluate.job(config, folder, Path(temporary))
        made = _read(Path(temporary), name)
        _keep(Path(temporary), folder)
    if made is None:
        raise UserError(f'its evaluation has no metrics of classes ({name}.json).')
    return dataclasses.replace(made, origin='Evaluated for this report.')


def _step(config: Any, folder: Path) -> int | None:
    """Returns the step of the checkpoint that cls.evaluate.restore takes, unless it is damaged."""
    place = folder / checkpoint_files.PLACE
    best = checkpoint_files.load_best(place) if config.checkpoint.best else None
    if best and checkpoint_files.is_complete(place / str(best['step'])):
        return best['step']
    return max(checkpoint_files.steps(place), default=None)


def _read(folder: Path, name: str) -> Evaluation | None:
    """Returns an evaluation from its files, None if they are missing, damaged or incomplete."""
    values = load_json(folder / f'{name}.json')
    if not isinstance(values, dict):
        return None
    origin = f'From {name}.json of the run folder.'
    several = [name for name in values if name.endswith('/average_precision')]
    if several:
        return Evaluation(several[-1].rpartition('/')[0], values, None, origin)
    sets = [key.removesuffix('/classes') for key in values if key.endswith('/classes')]
    if not sets or any(f'{sets[-1]}/{metric}' not in values for metric in _NEEDED):
        return None
    try:
        content = (folder / f'{name}-confusion.npz').read_bytes()
        with np.load(io.BytesIO(content)) as file:
            count, names = int(file['shape'][0]), file['names'].tolist()
            triple = (file['row'], file['col'], file['data'])
    except (OSError, ValueError, KeyError):
        return None
    confusion = Confusion(*triple, names or [str(i) for i in range(count)])
    return Evaluation(sets[-1], values, confusion, origin)


def _keep(source: Path, folder: Path) -> None:
    """Copies the files of an evaluation to a run folder, unless it is in use or read-only."""
    with contextlib.suppress(UserError, OSError), contextlib.ExitStack() as stack:
        if paths.is_remote(folder):
            stack.enter_context(paths.explained(folder))
        stack.enter_context(exclusive(folder))
        for file in sorted(source.iterdir()):
            paths.write_whole(folder / file.name, file.read_bytes())


# ------------------------------------------------------------------------------------ the model


def opened(folder: Path, found: Evaluation) -> tuple[Model, Any]:
    """Returns (the evaluated model, a function of indices that returns images and labels).

    Raises UserError if the data cannot be opened.
    """
    config = configs.load_config(folder)
    setup, state = evaluate.restore(config, folder)
    weights = evaluate.weight_sets(setup, state)
    model = Model(
        setup.model,
        jax.tree.map(np.asarray, weights[found.weights]),
        Preprocess.of_data(setup.data, setup.test.channels),
        classes=setup.info.class_names,
        variant=config.model.name,
        source=str(folder),
    )
    reader = eval_reader(setup.test, setup.data, reading_threads(setup.test))
    return model, lambda indices: reader(indices, indices)[0]


def _model(folder: Path, missing: list[str]) -> Model | None:
    """Returns the model of a run whose data cannot be opened."""
    try:
        return loading.load(folder)
    except UserError as error:
        missing.append(f'Without the summary of the network: {error}')
        return None


def _stages(model: Model) -> Sequence[summarizing.Row]:
    p = model.preprocess
    return summarizing.summarize(model.module, p.size, p.channels)


def with_images(model: Model, images: Any, found: Evaluation) -> list[Mistake]:
    """Returns the most confident mistakes of an evaluation with their images and heat maps."""
    rows: Sequence[Mapping[str, Any]] = found['mistakes']
    if not rows:
        return []
    pixels = images(np.array([row['index'] for row in rows]))
    layer = _layer(model)
    method = f'Grad-CAM of {layer}' if layer else 'integrated gradients'
    mistakes = []
    for row, image in zip(rows, pixels, strict=True):
        of_prediction = _heat(model, image, row['output'], layer)
        of_class = _heat(model, image, row['label'], layer)
        mistakes.append(Mistake(row, image, of_prediction, of_class, method))
    return mistakes


def _layer(model: Model) -> str:
    """Returns the stage of Grad-CAM; '' for a network without one."""
    try:
        return explaining.default_layer(model)
    except UserError:
        return ''


def _heat(model: Model, image: np.ndarray, output: int, layer: str) -> np.ndarray:
    method = 'gradcam' if layer else 'integrated_gradients'
    return explaining.explain_pixels(
        model, image[None], method, target=output, layer=layer
    ).overlay()

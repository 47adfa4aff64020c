"""Evaluates a run on those of ImageNet's other test sets that a folder contains.

  python -m cls.tools.robustness --workdir runs/r50 --data DIR

DIR may contain these, extracted from their authors' archives or prepared by TFDS:

  imagenet2012      prepared; the validation set itself
  imagenet_real     real.json, next to the prepared imagenet2012; or imagenet-real/, a folder of
                    real.json and the validation images
  imagenet_v2/...   imagenetv2-{matched-frequency,threshold0.7,top-images}-format-val/
  imagenet_a        imagenet-a/
  imagenet_r        imagenet-r/
  imagenet_sketch   sketch/
  imagenet_c        {imagenet-c,ImageNet-C,.}/{noise,blur,weather,digital,.}/CORRUPTION/SEVERITY/

A line for each test set has top-1 and top-5 in percent over all images. For ImageNet-A and -R, only
their 200 classes compete. ReaL counts a prediction as correct if it is among the labels of an
image, and leaves out images without labels. The images of ImageNet-C are resized to the model's
size without a margin, as their authors made them 224 pixels wide by a center crop. mCE is reported
if all 75 parts of ImageNet-C are present. Everything is written to robustness.json in the run
folder, or in --output. If a run keeps an average of its weights, the average is evaluated.
"""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cls import evaluate
from cls.cli import Parser, run
from cls.config import load as configs
from cls.config.runs import load_config
from cls.data import datasets, sources, tfds_sets
from cls.data.spec import DataSpec
from cls.distributed import agreement
from cls.errors import UserError
from cls.evaluation import robustness
from cls.evaluation.measure import measure
from cls.run import reports
from cls.run.environment import start
from cls.run.telemetry import write_json
from cls.run.workdir import load_classes
from cls.search import supernets  # noqa: F401  registers networks and trainings
from cls.setup import Setup
from cls.storage import download, paths

PROG = 'python -m cls.tools.robustness'

# TFDS's names -> folders that the authors' archives extract to.
_V2 = {
    'imagenet_v2/matched-frequency': 'imagenetv2-matched-frequency-format-val',
    'imagenet_v2/threshold-0.7': 'imagenetv2-threshold0.7-format-val',
    'imagenet_v2/topimages': 'imagenetv2-top-images-format-val',
}
_FOLDERS = _V2 | {
    'imagenet_a': 'imagenet-a',
    'imagenet_r': 'imagenet-r',
    'imagenet_sketch': 'sketch',
}
_C_ROOTS = ('imagenet-c', 'ImageNet-C', '')
_C_KINDS = ('', 'noise', 'blur', 'weather', 'digital')


@dataclasses.dataclass(frozen=True)
class TestSet:
    """A test set of a folder: its title and the fields of config.data that name it."""

    title: str
    name: str
    split: str = ''  # of a test set that TFDS prepared


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    flags.add_argument('--workdir', required=True, type=paths.checked, help='the run')
    flags.add_argument(
        '--data', required=True, type=download.fetched, help='folder of the test sets'
    )
    flags.add_argument(
        '--output', type=paths.checked, help='folder for robustness.json; default: the run folder'
    )
    flags.add_argument('--config', help='your own config file that registers the model')
    agreement.add_flags(flags)
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Evaluates; returns the exit code. Raises UserError for mistakes."""
    args = parser(prog).parse_args(argv)
    if args.config:
        configs.load(args.config)
    agreement.start(args)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s')
    test_sets = list(find(args.data))
    if not test_sets:
        raise UserError(
            f'{args.data} has none of the test sets: expected one of imagenet2012, real.json, '
            f'{", ".join(_FOLDERS.values())}, imagenet-c.'
        )
    start()
    report(args.workdir, args.data, test_sets, args.output)
    return 0


def find(root: Path) -> Iterator[TestSet]:
    """Yields the test sets in a folder."""

    def is_prepared(name: str) -> bool:
        return tfds_sets.find_prepared(name, str(root)) is not None

    if is_prepared('imagenet2012'):
        yield TestSet('imagenet2012', 'tfds:imagenet2012', 'validation')
    if (root / 'real.json').is_file() and is_prepared('imagenet2012'):
        yield TestSet('imagenet_real', f'imagenet_real:{root / "real.json"}')
    elif (root / 'imagenet-real').is_dir():
        yield TestSet('imagenet_real', f'imagenet_real:{root / "imagenet-real"}')
    for title, folder in _FOLDERS.items():
        if (root / folder).is_dir():
            yield TestSet(title, f'{title.partition("/")[0]}:{root / folder}')
        elif is_prepared(title):
            yield TestSet(title, f'tfds:{title}', 'test')
    for corruption in robustness.ALEXNET_ERRORS:
        for severity in robustness.SEVERITIES:
            title = f'imagenet_c/{corruption}/{severity}'
            places = (
                root / part / kind / corruption / str(severity)
                for part in _C_ROOTS
                for kind in _C_KINDS
            )
            prepared = f'imagenet2012_corrupted/{corruption}_{severity}'
            if place := next((place for place in places if place.is_dir()), None):
                yield TestSet(title, f'imagenet_c:{place}')
            elif is_prepared(prepared):
                yield TestSet(title, f'tfds:{prepared}', 'validation')


def data_of(config: ConfigDict, test: TestSet, root: Path) -> DataSpec:
    """Returns the data specification of a run's config, with a test set as its source."""
    fields: dict[str, Any] = {'name': test.name, 'dir': str(root), 'validation': ''}
    fields['eval_split'] = test.split or config.data.eval_split
    if test.title.startswith('imagenet_c/'):
        fields['eval_resize'] = 0
    return dataclasses.replace(DataSpec.from_config(config), **fields)


def report(
    workdir: Path, root: Path, found: list[TestSet], output: Path | None = None
) -> dict[str, Any]:
    """Evaluates a run on test sets, prints a line for each, and writes robustness.json.

    The file is written to the folder `output`, or to the run folder if that can be claimed.
    """
    agreement.on_first('output', lambda: reports.prepare(workdir, output))
    config, classes = load_config(workdir), load_classes(workdir)
    data = [data_of(config, test, root) for test in found]
    # A broken test set is found before hours of evaluation on the others.
    sets = [datasets.load(fields, 'eval', classes) for fields in data]
    with config.unlocked():
        config.eval.validation = ''
        config.data.update({name: getattr(data[0], name) for name in config.data})
    setup, state = evaluate.restore(config, workdir)
    result = {'step': int(state.step), 'sets': {}}
    for test, fields, source in zip(found, data, sets, strict=True):
        values = accuracy(setup, fields, source, state.ema or state.variables())
        result['sets'][test.title] = values | {'split': source.split}
        agreement.print_once(
            f'{test.title}: top-1 {values["top1"]:.2f} %, top-5 {values["top5"]:.2f} %, '
            f'{values["images"]:,} images'
        )
    errors = {
        (name, severity): 1 - result['sets'][title]['top1'] / 100
        for name in robustness.ALEXNET_ERRORS
        for severity in robustness.SEVERITIES
        if (title := f'imagenet_c/{name}/{severity}') in result['sets']
    }
    if errors:
        mean = robustness.mean_corruption_error(errors)
        result['imagenet_c'] = {'mCE': mean, 'CE': robustness.corruption_errors(errors)}
        missing = f'{len(errors)} of 75 parts are present, all are needed' if mean is None else ''
        agreement.print_once(f'imagenet_c: mCE {missing or f"{mean:.2f} %"}')

    def write(folder: Path) -> None:
        write_json(folder / 'robustness.json', result)

    agreement.on_first('written', lambda: reports.deliver(write, workdir, output))
    return result


def accuracy(
    setup: Setup, data: DataSpec, source: sources.Source, variables: Any
) -> dict[str, float]:
    """Returns top1 and top5 in percent and the number of images; each image counts once.

    Args:
      setup: the setup of the run.
      data: the specification of the test set.
      source: the test set.
      variables: the variables, on the mesh.
    """
    setup = dataclasses.replace(setup, data=data, test=source)
    parts = evaluate.predict(setup, variables, evaluate.plan(setup, 'single'))
    classes = setup.model.num_classes
    values = measure((part.predictions for part in parts), source, classes).scalars()
    return {name: values[name] for name in ('top1', 'top5', 'images')}


if __name__ == '__main__':
    run(main)

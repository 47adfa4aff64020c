"""Writes the weights of a run for another package.

  cls export-weights --workdir runs/birds --format timm --output birds
  cls export-weights --workdir runs/birds --format timm --output birds --push hf:me/birds

--format is the package: timm, torchvision or keras, and it loads the file strictly into its own
network; or safetensors, for the names of the variant's reference. The folder
gets the weights (model.safetensors; model.h5 for Keras), config.json as timm reads it, with the
names of the classes and the preparation of images, and README.md, the model card, with license,
origin, training and results. Importing the file again gives the same variables, bit by bit; this is
compared before anything is written.
"""

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from cls import inference, models
from cls.cli import Parser, run
from cls.config import runs
from cls.errors import UserError, reason
from cls.inference.loading import SETS
from cls.models.registry import Variant
from cls.run import workdir as folders
from cls.storage import paths
from cls.weights import export, model_card, origin, published, targets
from cls.weights.colors import reverse_colors
from cls.weights.hub import HUB
from cls.weights.model_card import Facts, Images
from cls.weights.origin import Origin
from cls.weights.targets import Target

PROG = 'python -m cls.tools.export_weights'
FORMATS = ('timm', 'torchvision', 'keras', 'safetensors')


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    flags.add_argument(
        '--workdir', '--from', required=True, type=paths.checked, help='the folder of a run'
    )
    flags.add_argument('--format', required=True, choices=FORMATS, help='the package')
    flags.add_argument('--output', required=True, type=Path, help='the folder to make')
    flags.add_argument('--weights', default='auto', choices=SETS, help='auto: average if kept')
    flags.add_argument('--license', default='', help='the license to state, as apache-2.0')
    flags.add_argument('--push', default='', metavar='hf:OWNER/NAME', help='upload to the Hub')
    flags.add_argument('--private', action='store_true', help='--push to a private repository')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Writes the folder; returns the exit code. Raises UserError if the weights do not fit."""
    args = parser(prog).parse_args(argv)
    output: Path = args.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f'{output} is not empty; choose another --output.')
    if args.push and not args.push.startswith(HUB):
        raise UserError(f'--push is {args.push}: expected hf:OWNER/NAME.')
    runs.load_config(args.workdir)  # or a name of published weights would be fetched
    model = inference.load(args.workdir, weights=args.weights)
    variant = models.variant(model.variant)
    target = _target(variant, args.format)
    tensors, facts = _converted(model, variant, target, args)
    with _whole(output) as folder:
        _write(folder / facts.file, tensors, facts)
        text = json.dumps(model_card.config(facts), indent=2, ensure_ascii=False) + '\n'
        (folder / 'config.json').write_text(text)
        (folder / 'README.md').write_text(model_card.readme(facts))
    named = f'{target.package} {target.name}' if target else f'{variant.name}'
    count = sum(value.size for value in tensors.values())
    print(f'{output}: {named}, {len(tensors)} tensors, {count:,} numbers, from {model.source}.')
    for line in (*facts.notes, _license_line(facts)):
        print(line)
    if args.push:
        print(f'Uploaded to {_push(output, args.push.removeprefix(HUB), args.private)}.')
    return 0


def _target(variant: Variant, format: str) -> Target | None:
    """Returns the network of the package. Raises UserError if it has none."""
    if format == 'safetensors':
        return None
    if target := targets.of(format, variant.name):
        return target
    own = targets.variants(format)
    near = [name for name in own if models.variant(name).system == variant.system]
    listed = ', '.join((near or own)[:12]) + (', ...' if len(near or own) > 12 else '')
    rest = f' of {variant.system.name}' if near else ''
    raise UserError(
        f'{format} has no {variant.name}: expected one of its networks{rest}, {listed}; or '
        '--format safetensors, for any variant.'
    )


def _converted(
    model: inference.Model, variant: Variant, target: Target | None, args: Any
) -> tuple[dict[str, np.ndarray], Facts]:
    """Returns the tensors in the names of the package, and the facts for the card."""
    variables = jax.tree.map(np.array, jax.device_get(model.variables))
    p = model.preprocess
    images = Images(*(getattr(p, field.name) for field in dataclasses.fields(Images)))
    space = _space(variant, images, args.format)
    if space:
        reverse_colors(variables['params'])
    if target is None:
        tensors = export.reference_tensors(variables, variant)
        tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    else:
        mean, std = (np.asarray(x, np.float64) / 255 for x in (p.mean, p.std))
        statistics = {'mean': mean, 'variance': std**2}
        tensors = export.package_tensors(variables, model.module, variant, target, statistics)
    words = model.names if model.classes and tuple(model.names) != tuple(model.classes) else ()
    came, license = _origin(args.workdir, args.license)
    facts = Facts(
        args.format,
        variant,
        target,
        model.num_classes,
        model.classes,
        words,
        images,
        license,
        came,
        _training(args.workdir, model.source),
        _metrics(args.workdir),
        _notes(images, space, args.format, tensors),
        bool(getattr(model.module, 'aux_head', False)),
        space,
    )
    return tensors, facts


def _space(variant: Variant, images: Images, format: str) -> str:
    """Returns 'BGR' if the preparation of images is Caffe's in the package and in the run."""
    rows = [row for row in published.of_variant(variant.name) if row.package == format]
    caffe = [row for row in rows if row.space == 'BGR']
    if not caffe or len(images.mean) != 3:
        return ''
    own = np.asarray([images.mean, images.std]) / 255
    return 'BGR' if np.allclose(own, [caffe[0].mean, caffe[0].std], atol=1e-4) else ''


def _notes(images: Images, space: str, format: str, tensors: Mapping[str, Any]) -> list[str]:
    """Returns sentences on the limits of the format."""
    notes = []
    if space:
        notes.append(
            f'The first convolution expects BGR, as preprocess_input of {format} gives it: import '
            'the file with --bgr.'
        )
    if images.interpolation.startswith('tf_'):
        notes.append(
            f'Images were resized by {images.interpolation}; config.json says '
            f'{images.interpolation.removeprefix("tf_")}.'
        )
    if images.contrast:
        notes.append('Each image was normalized to zero mean and unit variance, before the mean.')
    if any(name.startswith('normalization') for name in tensors):
        notes.append('The network itself normalizes images of 0 to 255.')
    elif any('rescaling' in name for name in tensors):
        notes.append('The network itself scales images of 0 to 255.')
    return notes


def _origin(workdir: Path, license: str) -> tuple[list[str], str]:
    """Returns (sentences on the origin of the weights, the license)."""
    came, how = origin.read(workdir), 'The weights are'
    config = runs.load_config(workdir)
    source = config.get('init', '')
    if came is None and source and not source.startswith(HUB) and Path(source).is_dir():
        came, how = origin.read(source), 'The training started from'
    if came is None and (row := published.named(source)):
        came = Origin(source, published=row.title, license=row.license, license_from=row.package)
        how = 'The training started from'
    if came is None:
        text = [f'The training started from {_public(source)}.'] if source else []
        return [*text, 'Exported from a run of cls.'], license
    digest = f' (sha256 {came.sha256[:16]})' if came.sha256 else ''
    text = f'{how} {came.published or _public(came.source)}{digest}.'
    if came.license and license and license != came.license:
        raise UserError(
            f'--license is {license}, but the weights came with {came.license} '
            f'({came.license_from}): leave it out.'
        )
    return [text, 'Exported from a run of cls.'], came.license or license


def _public(source: str) -> str:
    """Returns a source without the folders of this machine."""
    return source if source.startswith(HUB) or '://' in source else Path(source).name


def _training(workdir: Path, source: str) -> list[str]:
    """Returns sentences on the training, from the config of the run."""
    step = source.rpartition('step ')[2]
    if not step.isdecimal() or int(step) == 0:
        return []
    config = runs.load_config(workdir)
    return [
        f'{int(step):,} steps of {config.batch} images of {config.data.name}, by '
        f'{config.optim.name} with learning rate {config.optim.lr:g} and weight decay '
        f'{config.optim.weight_decay:g}.'
    ]


def _metrics(workdir: Path) -> dict[str, float]:
    result = folders.load_result(workdir) or {}
    return {
        name: float(value)
        for name, value in result.items()
        if name.startswith(('test', 'validation')) and isinstance(value, int | float)
    }


def _license_line(facts: Facts) -> str:
    if not facts.license:
        return 'License: unknown; --license states one.'
    more = '' if published.is_commercial(facts.license) else ': no commercial use'
    return f'License: {facts.license}{more}.'


@contextlib.contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A temporary folder that becomes `output` at the end, and is removed after an error."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f'.{output.name}.', dir=output.parent))
    except OSError as error:
        raise UserError(f'{output} cannot be written ({reason(error) or error}).') from None
    try:
        yield folder
        folder.chmod(0o755)
        if output.exists():
            output.rmdir()
        folder.rename(output)
    except OSError as error:
        raise UserError(f'{output} cannot be written ({reason(error) or error}).') from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(file: Path, tensors: dict[str, np.ndarray], facts: Facts) -> None:
    if facts.format != 'keras':
        save_file(tensors, file, {'format': 'pt'})
        return
    export.write_keras(file, tensors)


def _push(folder: Path, name: str, private: bool) -> str:
    """Uploads a folder to the Hub; returns its address. Raises UserError if the Hub refuses."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=name, commit_message='Upload weights')
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f'{HUB}{name}: {lines[0]} The weights are in {folder}; upload them with `hf upload`.'
        ) from None
    return str(address)


if __name__ == '__main__':
    run(main)

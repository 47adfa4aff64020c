"""Exports a model for other programs: StableHLO, ONNX, or LiteRT.

  cls export --from runs/birds --format onnx --output birds.onnx --pixels
  cls export --from hf:timm/resnet50.a1_in1k --format stablehlo --output resnet50.stablehlo
  cls export --from runs/birds --format litert --output birds.tflite --python litert/bin/python
  cls export --from runs/birds --format onnx --output int8.onnx --quantize int8 --images photos/

The model computes in float32, with its batch norms folded into its convolutions. It takes
normalized images (N, H, W, C) and gives logits; with --pixels, uint8 pixels and probabilities. The
file is compared with the model before it gets its name: StableHLO by a process that has JAX alone,
ONNX by onnxruntime, LiteRT by ai-edge-litert.

  stablehlo  any number of images, of any size from the model's on where the network allows it, on
             CPUs, GPUs and TPUs; labels and preparation of images in FILE.json
  onnx       opset 18, any number of images; labels and preparation in the metadata; needs
             pip install 'cls[onnx]'
  litert     a fixed number of images (--batch); needs another interpreter (--python), with
             pip install litert-converter ai-edge-litert

--quantize int8 calibrates on images of --images, a folder or a list as for `cls predict`, and
compares the classes of all other images there before and after. In folders with the names of
classes, and by a column `label`, they are labeled. A file that exists is
replaced only with --force.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

import cls
from cls.cli import Parser, run
from cls.errors import UserError, require
from cls.inference import inputs
from cls.inference.export import exporting, litert
from cls.inference.export.source import Source
from cls.inference.inputs import Input
from cls.inference.model import Model
from cls.inference.preprocess import Preprocess, UnreadableImage
from cls.storage import paths
from cls.tools.predict import add_force, add_source, opened

PROG = 'python -m cls.tools.export'
CALIBRATION = 128  # images that calibrate
_BATCH = 16  # images that are scored together


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    add_source(flags)
    flags.add_argument('--format', required=True, choices=exporting.FORMATS)
    flags.add_argument('--output', required=True, type=paths.checked, metavar='FILE', help='file')
    add_force(flags)
    flags.add_argument(
        '--pixels', action='store_true', help='take uint8 pixels and give probabilities'
    )
    flags.add_argument(
        '--external', action='store_true', default=None, help='stablehlo: weights in FILE.npz'
    )
    flags.add_argument('--fixed-size', action='store_true', help="stablehlo: the model's size only")
    flags.add_argument('--python', default='', metavar='PYTHON', help='litert: its interpreter')
    flags.add_argument('--batch', type=int, default=1, help='litert: number of images (default: 1)')
    flags.add_argument('--quantize', choices=['int8'], help='onnx: weights and activations')
    flags.add_argument('--images', default='', metavar='PLACE', help='of --quantize')
    flags.add_argument(
        '--calibration',
        type=int,
        default=CALIBRATION,
        metavar='N',
        help=f'images that calibrate (default: {CALIBRATION})',
    )
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Writes the file; returns the exit code."""
    args = parser(prog).parse_args(argv)
    _check(args)
    args.dtype = 'float32'
    model = opened(args)
    source = source_of(model, args.pixels)
    if args.quantize:
        result = _quantized(model, source, args)
    elif args.format == 'stablehlo':
        result = exporting.to_stablehlo(
            source, args.output, external=args.external, any_size=not args.fixed_size
        )
    elif args.format == 'onnx':
        result = exporting.to_onnx(source, args.output)
    else:
        result = exporting.to_litert(source, args.output, args.python, args.batch)
    print(_summary(result, source, args))
    return 0


def _check(args: Any) -> None:
    """Raises UserError for flags that do not fit together, and for missing packages."""
    for flag, form in (
        ('external', 'stablehlo'),
        ('fixed_size', 'stablehlo'),
        ('quantize', 'onnx'),
    ):
        if getattr(args, flag) and args.format != form:
            raise UserError(f'--{flag.replace("_", "-")} is a flag of --format {form} alone.')
    for flag, default in (('python', ''), ('batch', 1)):
        if getattr(args, flag) != default and args.format != 'litert':
            raise UserError(f'--{flag} is a flag of --format litert alone.')
    if args.calibration != CALIBRATION and not args.quantize:
        raise UserError('--calibration is a flag of --quantize int8 alone.')
    for flag in ('batch', 'calibration'):
        if getattr(args, flag) < 1:
            raise UserError(f'--{flag} is {getattr(args, flag)}: expected 1 or more.')
    if bool(args.quantize) != bool(args.images):
        raise UserError('--quantize int8 and --images PLACE belong together: expected both.')
    if args.dtype not in (None, 'float32'):
        raise UserError(f'--dtype is {args.dtype}: exports compute in float32; leave it out.')
    exporting.check_output(args.output, args.force)
    if args.format == 'onnx':
        require('onnx', 'onnx')
        require('onnxruntime', 'onnx')
    if args.format == 'litert':
        litert.check_interpreter(args.python)


def source_of(model: Model, pixels: bool) -> Source:
    """Returns a loaded model as the source of an export.

    Args:
      model: the model.
      pixels: whether the artefact takes uint8 pixels and gives probabilities.
    """
    preprocess: Preprocess = model.preprocess
    description = {
        'made_by': f'cls {cls.__version__}',
        'model': model.variant,
        'source': model.source,
        'license': model.license,
        'preparation': dataclasses.asdict(preprocess),
    }
    return Source(
        model.module,
        jax.device_get(model.variables),
        preprocess.size,
        preprocess.channels,
        preprocess.normalize,
        pixels,
        model.classes,
        description,
        model.multi_label,
    )


def _summary(result: exporting.Artefact, source: Source, args: Any) -> str:
    """Returns the lines about an export."""
    size = sum(file.stat().st_size for file in result.files)
    number = 'any number of' if result.free else str(args.batch)
    pixels = 'any size' if 'H' in result.free else f'{source.size} x {source.size}'
    least = f' from {source.size} pixels on' if 'H' in result.free else ''
    what = 'uint8 pixels to probabilities' if source.pixels else 'normalized images to logits'
    lines = [f'{args.output}: {what}, {number} images of {pixels}{least}, {size / 1e6:.1f} MB']
    lines += [f'  and {file.name}' for file in result.files[1:]]
    if not args.quantize:
        unit = 'largest probability' if source.pixels else 'spread of outputs'
        lines.append(f'compared with the model: {result.difference:.1e} of the {unit}')
    return '\n'.join(lines)


# --------------------------------------------------------------------------------- quantization


def _quantized(model: Model, source: Source, args: Any) -> exporting.Artefact:
    """Writes an int8 file, and prints the accuracy before and after."""
    every = inputs.expand([args.images], model.classes)
    picked = set(np.linspace(0, len(every) - 1, min(args.calibration, len(every))).astype(int))
    rest = [each for i, each in enumerate(every) if i not in picked]
    calibration = [each for i, each in enumerate(every) if i in picked]
    scored = rest or calibration
    classes: dict[str, np.ndarray] = {}

    def score(name: str, function: Callable[[np.ndarray], np.ndarray]) -> None:
        parts = [function(batch).argmax(1) for batch in _batches(model, source, scored)]
        classes[name] = np.concatenate(parts)

    result = exporting.to_int8(
        source, args.output, lambda: _batches(model, source, calibration), score
    )
    places = inputs.places(model.classes, model.num_classes)
    labels = [places.get(each.label, -1) for each in scored]
    which = 'that did not calibrate' if rest else 'that calibrated too'
    print(f'{len(scored)} images {which}:\n{_accuracy(classes, np.asarray(labels))}')
    return result


def _accuracy(classes: dict[str, np.ndarray], labels: np.ndarray) -> str:
    """Returns the lines about the classes of a network before and after quantization."""
    same = 100 * np.mean(classes['float32'] == classes['int8'])
    lines = []
    if (labels >= 0).any():
        known = labels >= 0
        before, after = (100 * np.mean(x[known] == labels[known]) for x in classes.values())
        lines.append(f'  top-1 {before:.2f} % in float32, {after:.2f} % in int8')
    return '\n'.join([*lines, f'  the same class for {same:.2f} %'])


def _batches(model: Model, source: Source, every: Sequence[Input]) -> Iterator[np.ndarray]:
    """Yields the images of files as the exported model takes them.

    Raises UserError for an image that cannot be read.
    """
    for start in range(0, len(every), _BATCH):
        part = every[start : start + _BATCH]
        try:
            pixels = model.preprocess.pixels([each.image for each in part])
        except UnreadableImage as error:
            raise UserError(f'--images: {error}') from error
        yield pixels if source.pixels else np.asarray(model.preprocess.normalize(pixels))


if __name__ == '__main__':
    run(main)

"""Shows the pixels that speak for a class: cls explain --from WHERE IMAGE ... --output DIR.

  cls explain --from runs/birds photos/ --output maps
  cls explain --from resnet50 cat.jpg --output maps --target 'tiger cat'
  cls explain --from runs/birds bird.jpg --output maps --method integrated_gradients

Each image becomes DIR/NAME.png: the crop that the network sees, with the map in color over it.
Images are named as for `cls predict`. --method gradcam (the default) takes the last stage with more
than one position; --layer chooses another, `cls summary` lists them. Without --target the class is
the most probable one. An image that cannot be read is named at the end, and the exit code is 1. A
map that exists is replaced only with --force.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from cls.cli import Parser, run
from cls.data.classes import both
from cls.errors import UserError
from cls.inference import explaining, inputs
from cls.inference.preprocess import UnreadableImage
from cls.storage import paths
from cls.tools.predict import add_force, add_source, opened, unread

PROG = 'python -m cls.tools.explain'


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    add_source(flags)
    flags.add_argument('images', nargs='+', metavar='IMAGE', help='file, folder, pattern, list, -')
    flags.add_argument('--output', required=True, type=paths.checked, metavar='DIR', help='folder')
    add_force(flags)
    flags.add_argument('--method', default='gradcam', help=', '.join(explaining.METHODS))
    flags.add_argument('--target', help='a class, by label, name or index')
    flags.add_argument('--layer', default='', help='a stage, for gradcam')
    flags.add_argument('--steps', type=int, default=explaining.STEPS, help='integrated_gradients')
    flags.add_argument('--opacity', type=float, default=0.5, help='of the map, 0 to 1')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Writes the overlays; returns the exit code, 1 if an image could not be read."""
    args = parser(prog).parse_args(argv)
    if not 0 <= args.opacity <= 1:
        raise UserError(f'--opacity is {args.opacity:g}: expected 0 to 1.')
    if args.output.exists() and not args.output.is_dir():
        raise UserError(f'--output is {args.output}: expected a folder, and it is a file.')
    model = opened(args)
    options = {'target': args.target, 'layer': args.layer, 'steps': args.steps}
    explaining.check(model, args.method, **options)
    each = inputs.expand(args.images, model.classes)
    broken = []
    files = [args.output / name for name in _free(one.name for one in each)]
    inputs.check_apart(files, each, '--output')
    if args.output.exists():
        for file in files:  # all of them before the first is written
            paths.check_new(file, args.force)
    for one, file in zip(each, files, strict=True):
        try:
            made = model.explain(one.image, args.method, **options)
        except UnreadableImage as error:
            broken.append((one.name, error.why))
            continue
        paths.make_folder(args.output)
        made.save(file, args.opacity)
        where = f', {made.layer}' if made.layer else ''
        shown = inputs.printable(str(file))
        print(f'{shown}: {both(made.label)} {made.probability:.4f}{where}', flush=True)
    return unread(broken, len(each))


def _free(names: Iterable[str]) -> Iterator[str]:
    """Yields the file name of each image's overlay; no two are the same."""
    used: set[str] = set()
    for name in names:
        stem = 'image' if name == inputs.STDIN else Path(name).stem
        number, file = 1, f'{stem}.png'
        while file in used:
            number += 1
            file = f'{stem}-{number}.png'
        used.add(file)
        yield file


if __name__ == '__main__':
    run(main)

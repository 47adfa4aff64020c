"""Predicts the classes of images: cls predict --from WHERE IMAGE ... [--json | --csv | ...].

  cls predict --from runs/birds bird.jpg
  cls predict --from runs/birds photos/ 'more/*.png' list.csv --csv --output birds.csv
  find . -name '*.jpg' | cls predict --from hf:timm/resnet50.a1_in1k - --json

--from takes a run folder, a file of weights, a snapshot folder, hf:OWNER/NAME, or the name of a
model with published weights. Images are files, folders (at any depth), patterns, .csv or .tsv lists
with a column `image` or `path` and perhaps `label`, and `-`: standard input, an image or a path on
each line. Images in a folder with the name of a class are labeled, and their accuracy is printed.

The images are prepared as in an evaluation, or by the views of --protocol. Results are written in
the order of the images while they are computed. An image that cannot be read has an error in place
of classes; all of them are named at the end, and the exit code is 1. A file that exists is replaced
only with --force.
"""

import contextlib
import csv
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import tqdm

from cls.cli import Parser, run
from cls.config.load import DTYPES
from cls.data.classes import both
from cls.data.labels import SEPARATOR
from cls.errors import UserError, nearest
from cls.evaluation.protocols import PROTOCOLS, find
from cls.inference import inputs
from cls.inference.inputs import Input
from cls.inference.loading import load
from cls.inference.model import Model
from cls.inference.stream import Result
from cls.run.environment import quiet
from cls.storage import paths

PROG = 'python -m cls.tools.predict'
FORMATS = ('table', 'json', 'csv', 'parquet')
_ROWS = 4096  # of a group of rows in a Parquet file


def add_source(flags: Parser) -> None:
    """Adds the flags that name a model, the same for all commands that use one."""
    flags.add_argument(
        '--from', dest='source', required=True, metavar='WHERE', help='run, file, hf:..., or name'
    )
    flags.add_argument(
        '--variant', '--model', default='', help="of a file's network, if it does not show it"
    )
    flags.add_argument(
        '--weights',
        default='auto',
        help='of a run: auto, average, trained, newest; of a name: a tag',
    )
    flags.add_argument('--dtype', choices=DTYPES, help='type that the network computes in')


def add_force(flags: Parser) -> None:
    """Adds the flag that lets a command replace files, the same for all commands that write."""
    flags.add_argument('--force', action='store_true', help='replace files that exist')


def opened(args: Any) -> Model:
    """Returns the model that the flags of `add_source` name."""
    quiet()
    return load(args.source, args.dtype, args.weights, variant=args.variant)


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    add_source(flags)
    flags.add_argument('images', nargs='+', metavar='IMAGE', help='file, folder, pattern, list, -')
    flags.add_argument('--top', type=int, default=5, help='classes of each image (default: 5)')
    form = flags.add_mutually_exclusive_group()
    form.add_argument('--json', action='store_const', const='json', dest='form', help='a JSON list')
    form.add_argument('--csv', action='store_const', const='csv', dest='form', help='a CSV table')
    form.add_argument(
        '--parquet', action='store_const', const='parquet', dest='form', help='needs --output'
    )
    flags.add_argument(
        '--output', type=paths.checked, metavar='FILE', help='.json, .csv, .parquet; not the screen'
    )
    add_force(flags)
    flags.add_argument('--embed', type=paths.checked, metavar='FILE.npz', help='write embeddings')
    flags.add_argument('--layer', default='', help='of --embed (default: pre_logits)')
    flags.add_argument('--protocol', default='single', help=', '.join(PROTOCOLS))
    flags.add_argument('--scales', type=_numbers, default=(), help='of dense: 256,384')
    flags.add_argument('--batch', type=int, default=0, help='images of a batch, for each device')
    return flags


def _numbers(text: str) -> tuple[int, ...]:
    with contextlib.suppress(ValueError):
        numbers = tuple(map(int, text.split(',')))
        if min(numbers) > 0:
            return numbers
    raise UserError(f'--scales is {text!r}: expected pixels, as 256,384.')


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Writes the predictions; returns the exit code, 1 if an image could not be read."""
    args = parser(prog).parse_args(argv)
    form = check(args)
    return write(opened(args), args, form)


def write(model: Model, args: Any, form: str) -> int:
    """Writes the predictions of a model; returns the exit code, 1 if an image could not be read.

    Args:
      model: the model.
      args: the other flags of `parser`.
      form: one of FORMATS, as `check` returns it.
    """
    layer = args.layer or 'pre_logits'
    if args.embed and layer not in (layers := model.feature_shapes()):
        if not layers:
            raise UserError('the network sows no features: leave --embed out.')
        raise UserError(f'--layer is {layer!r}: expected one of {", ".join(layers)}.')
    model.batch = args.batch or model.batch
    each = inputs.expand(args.images, model.classes)
    for flag in ('output', 'embed'):
        inputs.check_apart(filter(None, [getattr(args, flag)]), each, f'--{flag}')
    results = model.stream(
        ((one.name, one.image) for one in each),
        protocol=args.protocol,
        scales=args.scales,
        embed=layer if args.embed else '',
    )
    report = _Report(model, each, bool(args.embed))
    rows = report.rows(zip(each, results, strict=True), args.top)
    labeled = any(one.label for one in each)
    with _target(args.output) as file:
        WRITERS[form](file, rows, min(args.top, model.num_classes), labeled)
    if args.embed:
        _write_embeddings(args.embed, report, layer)
    return report.end()


def check(args: Any) -> str:
    """Returns the format of the results. Raises UserError for flags that do not fit together."""
    for flag, least in (('top', 1), ('batch', 0)):
        if getattr(args, flag) < least:
            raise UserError(f'--{flag} is {getattr(args, flag)}: expected {least} or more.')
    if args.protocol not in PROTOCOLS:
        raise UserError(
            f'--protocol is {args.protocol!r}: expected one of {", ".join(PROTOCOLS)}.'
            f'{nearest(args.protocol, PROTOCOLS)}'
        )
    if args.embed and args.embed.suffix != '.npz':
        raise UserError(f'--embed is {args.embed}: expected a file NAME.npz.')
    by_name = args.output.suffix.lower().removeprefix('.') if args.output else ''
    form = args.form or (by_name if by_name in FORMATS else 'table')
    if args.output and not args.form and by_name not in FORMATS:
        raise UserError(
            f'--output is {args.output}: expected a file NAME.json, NAME.csv or NAME.parquet, or '
            '--json, --csv or --parquet.'
        )
    for file in (args.output, args.embed):
        if file:
            paths.check_new(file, args.force)
    if args.output and args.output == args.embed:
        raise UserError(f'--output and --embed are both {args.embed}: expected two files.')
    if args.layer and not args.embed:
        raise UserError('--layer is the layer of --embed FILE.npz: expected both.')
    if args.scales and not find(args.protocol).dense:
        raise UserError(f'--scales is for dense protocols, not for --protocol {args.protocol}.')
    if form == 'parquet' and not args.output:
        raise UserError('--parquet needs --output FILE: the format is not text.')
    return form


class _Report:
    """The progress, the counts and the errors of the images."""

    def __init__(self, model: Model, each: Sequence[Input], embed: bool) -> None:
        self.model, self.each, self.embed = model, each, embed
        self.known = inputs.places(model.classes, model.num_classes)
        self.broken: list[tuple[str, str]] = []
        self.names: list[str] = []
        self.vectors: list[np.ndarray] = []
        self.labeled = self.right = self.unknown = 0
        self.began = time.monotonic()

    def rows(self, results: Iterable[tuple[Input, Result]], top: int) -> Iterator[dict[str, Any]]:
        """Yields {'image', 'label', 'predictions', 'error'} of each image."""
        bar = tqdm.tqdm(results, total=len(self.each), unit=' images', disable=None)
        for one, result in bar:
            best = [] if result.error else self.model.ranked(result.probabilities, top)
            if result.error:
                self.broken.append((one.name, result.error))
            elif self.embed and result.embedding is not None:
                self.names.append(one.name)
                self.vectors.append(result.embedding)
            labels = self._labels(one.label)
            known = bool(labels) and labels <= self.known.keys()
            if best and known:
                self.labeled += 1
                self.right += best[0].index in {self.known[label] for label in labels}
            self.unknown += bool(labels) and not known
            yield {
                'image': one.name,
                'label': one.label,
                'predictions': best,
                'error': result.error,
            }

    def _labels(self, cell: str) -> set[str]:
        """Returns the labels of an image, as they are written in a list."""
        several = self.model.multi_label and cell not in self.known
        return set(cell.split(SEPARATOR) if several else [cell]) - {''}

    def end(self) -> int:
        """Prints a line on the images, and the errors; returns the exit code."""
        seconds, count = time.monotonic() - self.began, len(self.each)
        line = f'{count:,} images in {seconds:.1f} s, {count / max(seconds, 1e-9):,.1f} images/s'
        if self.labeled:
            line += f'; top-1 {100 * self.right / self.labeled:.2f} % of {self.labeled:,} labeled'
        print(line, file=sys.stderr)
        if self.unknown:
            line = f'{self.unknown:,} labels are no class of the model, and were not counted'
            print(f'WARNING: {line}', file=sys.stderr)
        return unread(self.broken, count)


def unread(broken: Sequence[tuple[str, str]], count: int) -> int:
    """Prints the images that were not read, if any; returns the exit code.

    Args:
      broken: (name, reason) of each.
      count: the number of all images.
    """
    if not broken:
        return 0
    print(f'error: {len(broken)} of {count:,} images were not read:', file=sys.stderr)
    for name, why in broken:
        print(f'  {inputs.printable(name)}: {why}', file=sys.stderr)
    return 1


def _write_embeddings(file: Path, report: _Report, layer: str) -> None:
    vectors = np.stack(report.vectors) if report.vectors else np.zeros((0, 0), np.float32)
    names = np.array([inputs.encodable(name) for name in report.names], dtype=np.str_)
    content = io.BytesIO()
    np.savez(content, images=names, embeddings=vectors, layer=np.array(layer))
    paths.write_whole(file, content.getvalue())


# ---------------------------------------------------------------------------------------- formats


@contextlib.contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO | None]:
    """Yields the file to write, complete or not at all; None: the screen."""
    if output is None:
        yield None
        return
    with paths.writing(output) as file:
        yield file


@contextlib.contextmanager
def _text(file: BinaryIO | None) -> Iterator[TextIO]:
    if file is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    lines = io.TextIOWrapper(file, 'utf-8', 'surrogateescape', newline='')
    yield lines
    lines.detach()  # writes the rest, and does not close the file


def write_table(
    file: BinaryIO | None, rows: Iterable[dict[str, Any]], top: int, labeled: bool
) -> None:
    """Writes a line for each image: its name, and its classes with their probabilities."""
    del top, labeled
    with _text(file) as text:
        for row in rows:
            shown = '  '.join(f'{both(p.label)} {p.probability:.4f}' for p in row['predictions'])
            name = inputs.printable(row['image'])
            text.write(f'{name}  {shown or "not read: " + row["error"]}\n')


def write_json(
    file: BinaryIO | None, rows: Iterable[dict[str, Any]], top: int, labeled: bool
) -> None:
    """Writes a JSON list, an object for each image on a line of its own."""
    del top
    with _text(file) as text:
        between = '[\n'
        for row in rows:
            entry: dict[str, Any] = {'image': inputs.encodable(row['image'])}
            entry |= {'label': row['label']} if labeled else {}
            entry['predictions'] = [
                {
                    'index': p.index,
                    'label': p.label,
                    'name': p.name,
                    'probability': _short(p.probability),
                }
                for p in row['predictions']
            ]
            entry |= {'error': row['error']} if row['error'] else {}
            text.write(between + json.dumps(entry, ensure_ascii=False))
            between = ',\n'
        text.write('\n]\n')


def _short(probability: float) -> float:
    """Returns a float32 with as many digits as it has."""
    return float(f'{probability:.8g}')


def write_csv(
    file: BinaryIO | None, rows: Iterable[dict[str, Any]], top: int, labeled: bool
) -> None:
    """Writes a CSV table, see `columns`."""
    with _text(file) as text:
        writer = csv.writer(text, lineterminator='\n')
        writer.writerow(columns(top, labeled))
        for row in rows:
            values = _flat(row, top, labeled)
            writer.writerow(['' if value is None else value for value in values])


def columns(top: int, labeled: bool) -> list[str]:
    """Returns the names of the columns of a table."""
    kinds = ('class', 'name', 'probability')
    own = [f'{kind}{i}' for i in range(1, top + 1) for kind in kinds]
    return ['image', *(['label'] if labeled else []), *own, 'error']


def _flat(row: dict[str, Any], top: int, labeled: bool) -> list[Any]:
    cells: list[Any] = []
    for p in row['predictions']:
        cells += [p.label, p.name, _short(p.probability)]
    cells += [None] * (3 * top - len(cells))
    name = inputs.encodable(row['image'])
    return [name, *([row['label']] if labeled else []), *cells, row['error']]


def write_parquet(
    file: BinaryIO | None, rows: Iterable[dict[str, Any]], top: int, labeled: bool
) -> None:
    """Writes a Parquet file with the columns of the CSV table."""
    import pyarrow as arrow  # slow to import, and only needed for this format
    from pyarrow import parquet

    names, kinds = columns(top, labeled), {'probability': arrow.float32()}
    schema = arrow.schema(
        [(name, kinds.get(name.rstrip('0123456789'), arrow.string())) for name in names]
    )
    with parquet.ParquetWriter(file, schema) as writer:
        for part in _parts(rows, _ROWS):
            values = zip(*(_flat(row, top, labeled) for row in part), strict=True)
            arrays = [arrow.array(v, f.type) for v, f in zip(values, schema, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))


def _parts(rows: Iterable[Any], count: int) -> Iterator[list[Any]]:
    part = []
    for row in rows:
        part.append(row)
        if len(part) == count:
            yield part
            part = []
    if part:
        yield part


WRITERS: dict[str, Callable[..., None]] = {
    'table': write_table,
    'json': write_json,
    'csv': write_csv,
    'parquet': write_parquet,
}


if __name__ == '__main__':
    run(main)

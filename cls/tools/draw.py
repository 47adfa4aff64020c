"""Draws a genotype, as text or as a picture.

  cls draw darts_v2_cifar
  cls draw runs/search-nasnet --output cell.svg
  cls draw genotype.json --model nasnet_a_6_768_cifar

The genotype is that of a variant, of a run (the result of a search, or of its network), or of a
JSON file, which needs the --model that it is for. Text has a line for each node: the nodes before
it, with the operations on the edges. --output writes .svg or .png, and needs
matplotlib; a file that exists is replaced only with --force.
"""

from collections.abc import Iterator
from typing import Any

from cls import models
from cls.cli import Parser, run
from cls.config import genotype_files, runs
from cls.errors import UserError, nearest
from cls.search.graphs import Edge, graphs
from cls.search.job import GENOTYPE
from cls.storage import paths

PROG = 'python -m cls.tools.draw'


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    flags.add_argument('genotype', help='a variant, a run folder, or a JSON file')
    flags.add_argument('--model', default='', help='the variant that a JSON file is for')
    flags.add_argument('--output', type=paths.checked, metavar='FILE', help='.svg or .png')
    flags.add_argument('--force', action='store_true', help='replace a file that exists')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Prints or writes the drawing; returns the exit code."""
    args = parser(prog).parse_args(argv)
    if args.output and args.output.suffix.lower() not in ('.svg', '.png'):
        raise UserError(f'--output is {args.output}: expected a file NAME.svg or NAME.png.')
    if args.output:
        paths.check_new(args.output, args.force)
    genotype = genotype_of(args.genotype, args.model)
    if args.output:
        try:
            from cls.search import figures
        except ImportError:
            raise UserError(
                '--output needs matplotlib: `pip install matplotlib`, or leave it out for text.'
            ) from None
        figures.draw(genotype, args.output)
        print(args.output)
        return 0
    for line in lines(genotype):
        print(line)
    return 0


def genotype_of(source: str, model: str = '') -> Any:
    """Returns the genotype of a variant, a run folder or a JSON file.

    Raises UserError if there is none.
    """
    if not source:
        raise UserError('the genotype is empty: expected a variant, a run folder or a JSON file.')
    path = paths.path(source)
    if model and not (path.suffix == '.json' or path.is_file()):
        raise UserError(f'--model is for a JSON file, and {source!r} is none: leave it out.')
    if path.is_dir():
        config = runs.load_config(path)
        name, data = config.model.name, config.model.get('genotype')
        if (path / GENOTYPE).is_file():
            data = genotype_files.load(path / GENOTYPE)
        fields = {} if data is None else {'genotype': data}
        return _typed(name, fields, source)
    if path.suffix == '.json' or path.is_file():
        if not model:
            raise UserError(f'{source}: expected also --model, the variant that it is for.')
        return _typed(model, {'genotype': genotype_files.load(path)}, source)
    if not models.is_known(source):
        raise UserError(
            f'{source}: there is no such folder or file, and no model of that name.'
            f'{nearest(source, models.names())}'
        )
    return _typed(source, {}, source)


def _typed(name: str, fields: dict[str, Any], source: str) -> Any:
    genotype = getattr(models.create(name, **fields), 'genotype', None)
    if genotype is None:
        raise UserError(
            f'{source}: {name} has no genotype: expected a network of a search, as darts_v2_cifar.'
        )
    return genotype


def lines(genotype: Any) -> Iterator[str]:
    """Yields the lines of a text: each graph, and each node with the nodes before it."""
    for number, (name, edges) in enumerate(graphs(genotype)):
        if number:
            yield ''
        yield f'{name}:'
        yield from _nodes(edges)


def _nodes(edges: list[Edge]) -> Iterator[str]:
    into: dict[str, list[str]] = {}
    for source, node, operation in edges:
        into.setdefault(node, []).append(f'{operation}({source})' if operation else source)
    width = max(map(len, into))
    for node, sources in into.items():
        yield f'  {node:{width}} <- {", ".join(sources)}'


if __name__ == '__main__':
    run(main)

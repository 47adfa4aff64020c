"""Writes a report as one HTML page: cls report RUN | SWEEP | RUN RUN ... --output FILE.html.

  cls report runs/birds --output birds.html
  cls report sweeps/lr --output lr.html
  cls report runs/resnet runs/wrn --output both.html

The page of a run has its curves, results, confusion matrix, precision, recall, F1 and AUROC of each
class, calibration, the most confident mistakes with heat maps, the account of its time, its network
by stages, its recipe and its environment. The page of several runs, or of a sweep, compares
them over seeds, shows the differences of their configs, and has the details of the best run.

The run is evaluated as by `cls evaluate`, unless its folder has that evaluation already; the result
is kept there. A run without a checkpoint, or with data that cannot be opened, gets a page without
these parts. The page is a single file that needs no network.
"""

from collections.abc import Sequence
from pathlib import Path

from cls import __version__
from cls.cli import Parser, run
from cls.config import files
from cls.config import load as configs
from cls.errors import UserError
from cls.experiments import runs
from cls.experiments.groups import shown
from cls.experiments.report import page
from cls.experiments.report.comparison import of_several
from cls.experiments.report.data import Details, check, details
from cls.experiments.report.recipe import Recipe
from cls.experiments.runs import RunData, SweepData
from cls.run.environment import start
from cls.storage import paths
from cls.tools import recipes

PROG = 'python -m cls.tools.report'


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    flags.add_argument(
        'folders', nargs='+', type=paths.checked, metavar='RUN', help='run folders, or a sweep'
    )
    flags.add_argument(
        '--config', metavar='FILE.py', help='the config file that registers the model of the runs'
    )
    flags.add_argument(
        '--output', required=True, type=paths.checked, metavar='FILE.html', help='the page'
    )
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Writes the page; returns the exit code."""
    args = parser(prog).parse_args(argv)
    if args.output.suffix.lower() not in ('.html', '.htm'):
        raise UserError(f'--output is {args.output}: expected a file NAME.html.')
    paths.check_file(args.output)
    if args.config:
        configs.load(args.config)
    content = written(args.folders)
    paths.write_whole(args.output, content)
    print(f'{args.output}: {len(content) / 2**20:.1f} MiB')
    return 0


def written(folders: Sequence[Path]) -> bytes:
    """Returns the page of the runs in folders."""
    data, made_by = [runs.read(folder) for folder in folders], f'cls {__version__}'
    every = runs.runs_in(data)
    for each in every:
        check(each)
    start()

    def details_of(each: RunData) -> tuple[Details, Recipe | None]:
        return details(each), recipe_of(each)

    first = data[0]
    if len(data) == 1 and isinstance(first, RunData):
        return page.of_run(*details_of(first), made_by)
    sweep = first if len(data) == 1 and isinstance(first, SweepData) else None
    name = first.folder.name if sweep else f'{len(data)} runs'
    varied = dict.fromkeys(n for one in data if isinstance(one, SweepData) for n in one.varied)
    return of_several(name, every, sweep, [*varied], details_of, made_by)


def recipe_of(each: RunData) -> Recipe | None:
    """Returns the recipe nearest to the config of a run; None if there is none for its network."""
    match = recipes.nearest(each.fields)
    if match is None:
        return None
    arm, differing = match
    file = files.find(arm.config.partition(':')[0])
    differences = [(name, shown(own), shown(value)) for name, own, value in differing]
    text = file.read_text(encoding='utf-8')
    return Recipe(arm.config, arm.about, f'configs/{file.name}', text, differences)


if __name__ == '__main__':
    run(main)

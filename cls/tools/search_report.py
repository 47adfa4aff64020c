"""A report on searches: in tables, over many seeds against random search, or in run folders.

  python -m cls.tools.search_report --config configs/search/amoebanet.py:nasbench201 [...]
      --config.search.table=FILE [--seeds 100] [--config.FIELD=VALUE ...]
  python -m cls.tools.search_report --fronts -0.02 -0.07 -0.2 --config ... (as above)
  python -m cls.tools.search_report FOLDER [...]

Each config is searched in memory with seeds 0, 1, ..., and its space by random search with the same
seeds and number of evaluations. The table has the mean score of the best network so far after 50,
100, ... evaluations. The best network has the highest fitness seen by the searcher. Its score is
its true accuracy if the table has one (config.search.columns.truth). The last columns compare the
final scores with those of random search, seed by seed: the mean difference with its standard error,
the share of seeds with a better (and an equal) score, and the two-sided p of Wilcoxon's signed-rank
test.

--fronts reports the trade-off of accuracy and cost, for searches with the objective
accuracy_latency. Each config is searched once with each of these exponents of the reward, and all
evaluations make one Pareto front. Random search has as many evaluations in all. The table has the
mean score of the best network up to 1/2, 3/4, 1, 3/2 and 2 times the objective's target, and the
area under the fronts (score x doublings of the cost), from the cheapest to the most expensive
network of any front.

For run folders of searches, the table has the best fitness so far, the time of evaluations, and the
share of compilation in it. For run folders of supernets, it has the derived genotype, its score in
the table of the run, and metrics of alpha; the last line has the means.

--json FILE writes all numbers. --plot FILE.png plots the best score so far against evaluations, as
the mean and the middle half of all seeds; for supernets, the entropy of alpha against steps.
"""

import contextlib
import functools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls.cli import Parser, run
from cls.config import load as configs
from cls.errors import UserError, require
from cls.run.telemetry import write_json
from cls.search import comparison
from cls.search.comparison import Curves
from cls.search.history import FILE
from cls.search.searcher import FAILED
from cls.search.supernets import report as supernets
from cls.tools.markdown import table

PROG = 'python -m cls.tools.search_report'


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    flags.add_argument('folders', nargs='*', type=Path, help='run folders of searches')
    flags.add_argument('--config', nargs='+', default=[], help='RECIPE[:ARM], as for cls train')
    flags.add_argument('--seeds', type=int, default=100, help='number of seeds, 0, 1, ...')
    flags.add_argument('--fronts', nargs='+', type=float, metavar='W', help='exponents, below 0')
    flags.add_argument('--json', type=Path, metavar='FILE', help='write all numbers')
    flags.add_argument('--plot', type=Path, metavar='FILE', help='draw the curves')
    return flags


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Prints the table; returns the exit code. Raises UserError for mistakes."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    fields = [argument for argument in arguments if argument.startswith('--config.')]
    args = parser(prog).parse_args([a for a in arguments if a not in fields])
    if bool(args.config) == bool(args.folders):
        raise UserError('give --config RECIPE:ARM of tabular searches, or run folders.')
    if args.fronts and not args.config:
        raise UserError('--fronts is for --config RECIPE:ARM, not for run folders.')
    if args.seeds < 2:
        raise UserError(f'--seeds is {args.seeds}: expected 2 or more.')
    overrides = tuple(configs.parse_overrides(fields))
    if args.fronts:
        fronts = comparison.compare_fronts(args.config, overrides, args.seeds, args.fronts)
        numbers = comparison.front_numbers(fronts)
        lines, draw = comparison.fronts_table(numbers), functools.partial(plot_fronts, numbers)
    elif args.config:
        curves = comparison.compare(args.config, overrides, args.seeds)
        numbers = [comparison.numbers_of(c) for c in curves]
        lines, draw = comparison.curves_table(curves), functools.partial(plot, curves)
    elif any(supernets.is_supernet(folder) for folder in args.folders):
        numbers = [read_supernet(folder) for folder in args.folders]
        lines, draw = supernets.summed(numbers), functools.partial(plot_entropy, numbers)
    else:
        numbers = [read_search(folder) for folder in args.folders]
        curves = [Curves(run['name'], np.array([run['best']])) for run in numbers]
        lines, draw = folders_table(numbers), functools.partial(plot, curves)
    print(table(lines))
    if args.json:
        write_json(args.json, numbers)
    if args.plot:
        draw(args.plot)
    return 0


# ------------------------------------------------------------------------------------------------
# Run folders
# ------------------------------------------------------------------------------------------------


def read_search(folder: Path) -> dict[str, Any]:
    """Returns the numbers of the history in a run folder. Raises UserError if there is none."""
    file = folder / FILE
    if not file.is_file():
        raise UserError(f'{folder} is not the run folder of a search: it has no {FILE}.')
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith('\n')]
    results = [event for event in map(json.loads, lines) if 'told' in event]
    if not results:
        raise UserError(f'{file} has no evaluations yet.')
    fitness = [FAILED if event['fitness'] is None else event['fitness'] for event in results]
    metrics: list[Mapping[str, Any]] = [event['metrics'] for event in results]
    return {
        'name': folder.name,
        'failed': fitness.count(FAILED),
        'best': comparison.so_far(zip(fitness, fitness, strict=True), len(results)).tolist(),
        'seconds': sum(m.get('seconds', 0.0) for m in metrics),
        'compile_seconds': sum(m.get('compile_seconds', 0.0) for m in metrics),
    }


def read_supernet(folder: Path) -> dict[str, Any]:
    """Returns the result of a supernet's run. Raises UserError for other folders."""
    if not supernets.is_supernet(folder):
        raise UserError(f'{folder} trained no supernet, and others did: expected one kind of runs.')
    return supernets.read(folder)


def folders_table(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the table of run folders, with a header."""
    # The last point is the best.
    points = comparison.shown_points(max(len(run['best']) for run in runs))[:-1]
    header = ['run', *(f'@{p}' for p in points), 'evaluations', 'best', 'failed']
    lines = [[*header, 'seconds of evaluations', 'compiling']]
    for run_ in runs:
        best, seconds = run_['best'], run_['seconds']
        values = [f'{best[p - 1]:.4f}' if p <= len(best) else '' for p in points]
        part = f'{run_["compile_seconds"] / seconds:.0%}' if seconds else '-'
        values += [str(len(best)), f'{best[-1]:.4f}', str(run_['failed'])]
        lines.append([run_['name'], *values, f'{seconds:.0f}', part])
    return lines


# ------------------------------------------------------------------------------------------------
# Plots
# ------------------------------------------------------------------------------------------------


def plot(curves: Sequence[Curves], file: Path) -> None:
    """Draws the curves of each group in a plot."""
    with _drawn([c.group for c in curves], file, 'evaluations', 'best so far') as axes:
        drawn = set()
        for c in curves:
            if c.random is not None and c.group not in drawn:
                drawn.add(c.group)
                _curve(axes[c.group], c.random, 'random', color='0.4')
            _curve(axes[c.group], c.scores, c.name)


def plot_fronts(numbers: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws the mean fronts of each group in a plot."""
    groups = [n['group'] for n in numbers]
    with _drawn(groups, file, 'cost', 'best up to this cost', xscale='log') as axes:
        drawn = set()
        for n in numbers:
            lines = [(n['within'], n['search'], {})]
            if n['group'] not in drawn:
                drawn.add(n['group'])
                lines.insert(0, (n['random_within'], 'random', {'color': '0.4'}))
            for values, label, style in lines:
                axes[n['group']].step(
                    n['limits'], np.array(values, float), where='post', label=label, **style
                )


def plot_entropy(runs: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws the entropy of the supernets' architectures."""
    with _drawn([''], file, 'steps', 'entropy of alpha (nats)') as axes:
        for run_ in runs:
            axes[''].plot(*zip(*run_['steps'], strict=True), label=run_['name'])


@contextlib.contextmanager
def _drawn(
    groups: Iterable[str], file: Path, xlabel: str, ylabel: str, **more: Any
) -> Iterator[dict[str, Any]]:
    """Yields axes for each group; writes the figure to a file at the end."""
    require('matplotlib', 'search')
    from matplotlib.figure import Figure

    from cls.search.figures import save

    groups = list(dict.fromkeys(groups))
    figure = Figure((7, 4.5 * len(groups)), layout='constrained')
    axes = dict(zip(groups, figure.subplots(len(groups), 1, squeeze=False)[:, 0], strict=True))
    yield axes
    for ax in axes.values():
        ax.set(xlabel=xlabel, ylabel=ylabel, **more)
        ax.legend(loc='lower right')
    save(figure, file)


def _curve(axes: Any, values: np.ndarray, label: str, **style: Any) -> None:
    steps = np.arange(1, values.shape[1] + 1)
    (line,) = axes.plot(steps, np.nanmean(values, 0), label=label, **style)
    if len(values) > 1:
        low, high = np.nanpercentile(values, (25, 75), 0)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        middle = np.nanmean(values, 0)
        axes.set_ylim(bottom=min(middle[len(middle) // 20], axes.get_ylim()[1]))


if __name__ == '__main__':
    run(main)

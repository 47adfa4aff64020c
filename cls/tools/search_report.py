"""How searches do: of tables over many seeds against random search, of run folders as they went.

  python -m cls.tools.search_report --config configs/search/amoebanet.py:nasbench201 [...]
      --config.search.table=FILE [--seeds 100] [--config.FIELD=VALUE ...]
  python -m cls.tools.search_report FOLDER [...]

With configs each is searched in memory with so many seeds, and beside it random search of the same
space with as many evaluations. The table has the mean score of the best so far after 50, 100, ...
evaluations: the best is by what the searcher saw, its score is what it is really worth where the
table tells (config.search.columns.truth). Then, at the end, the mean difference to random search
with the same seed and its standard error, how often the search is the better one (and equal), and
the two-sided p of Wilcoxon's signed-rank test.

With run folders of searches it has the best fitness so far, and of the time that evaluations took
the part that compiling did.

--json FILE writes all numbers, --plot FILE.png the best so far against evaluations: mean, and the
middle half of all seeds.
"""

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from cls import config as configs
from cls.errors import UserError, run
from cls.search import loop, registry
from cls.search.history import FILE, History
from cls.search.job import is_search
from cls.search.searcher import FAILED
from cls.tools.markdown import table

POINTS = (10, 20, 50, 100, 200, 300, 500, 1000, 2000, 5000, 10_000, 20_000)
CHUNK = 5  # seeds that a process does at a time


@dataclasses.dataclass(frozen=True)
class Curves:
    """The score of the best so far: (seeds, evaluations)."""

    name: str
    scores: np.ndarray
    random: np.ndarray | None = None  # the same of random search, seed by seed
    group: str = ''  # of curves that random search is the same for


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code. Raises UserError for mistakes."""
    parser = argparse.ArgumentParser(
        prog='python -m cls.tools.search_report',
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('folders', nargs='*', type=Path, help='run folders of searches')
    parser.add_argument('--config', nargs='+', default=[], help='FILE.py:ARGUMENT, as of cls.main')
    parser.add_argument('--seeds', type=int, default=100, help='seeds 0 to this')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all numbers')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw the curves')
    given = sys.argv[1:] if argv is None else list(argv)
    fields = [argument for argument in given if argument.startswith('--config.')]
    args = parser.parse_args([a for a in given if a not in fields])
    if bool(args.config) == bool(args.folders):
        raise UserError('give --config FILE.py:ARGUMENT of tabular searches, or run folders.')
    if args.seeds < 2:
        raise UserError(f'--seeds is {args.seeds}: expected 2 or more.')
    if args.config:
        curves = searched(args.config, tuple(configs.parse_overrides(fields)), args.seeds)
        print(table(compared(curves)))
    else:
        runs = [read(folder) for folder in args.folders]
        print(table(summed(runs)))
        curves = [Curves(run['name'], np.array([run['best']])) for run in runs]
    if args.json:
        numbers = [numbers_of(c) for c in curves] if args.config else runs
        args.json.write_text(json.dumps(numbers, indent=1) + '\n')
    if args.plot:
        plot(curves, args.plot)
    return 0


# ------------------------------------------------------------------------------------------------
# Many seeds in memory
# ------------------------------------------------------------------------------------------------

Overrides = tuple[tuple[str, str], ...]


def searched(specs: Sequence[str], overrides: Overrides, seeds: int) -> list[Curves]:
    """Returns the curves of configs, and of random search beside each, for seeds 0, 1, ...

    Raises UserError for a config that trains its trials.
    """
    found = {spec: load(spec, overrides, False) for spec in specs}
    for config in found.values():  # mistakes are found here, not by the processes
        space = registry.create('space', config.search.space)
        registry.create('evaluator', config.search.evaluator, space, config)
    groups = {spec: group(config) for spec, config in found.items()}
    first = {of: spec for spec, of in reversed(groups.items())}  # random search is run for one
    jobs = [(spec, False) for spec in specs] + [(spec, True) for spec in first.values()]
    chunks = [range(i, min(i + CHUNK, seeds)) for i in range(0, seeds, CHUNK)]
    tasks = [(spec, overrides, random, chunk) for spec, random in jobs for chunk in chunks]
    processes = min(len(os.sched_getaffinity(0)), len(tasks))
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(processes, context) as pool:
        parts = list(pool.map(scores, *zip(*tasks, strict=True)))
    whole = {
        job: np.concatenate(parts[i * len(chunks) : (i + 1) * len(chunks)])
        for i, job in enumerate(jobs)
    }
    return [
        Curves(title(spec), whole[spec, False], whole[first[groups[spec]], True], groups[spec])
        for spec in specs
    ]


@functools.cache
def load(spec: str, overrides: Overrides, random: bool) -> ConfigDict:
    """Returns a config that looks its trials up; with `random` its searcher is random search."""
    config = configs.load(spec, overrides)
    if not is_search(config) or 'proxy' in config:
        raise UserError(
            f'{spec} is no search by a table, for which seeds are cheap: expected an arm as '
            'nasbench201; other searches are run by cls.main, then give their run folders.'
        )
    if random:
        with config.unlocked():
            config.search.searcher = registry.defaults('searcher', 'random')
    return config


def group(config: ConfigDict) -> str:
    """Returns text that is the same for configs in which random search does the same."""
    search = config.search.to_dict()
    alike = ('space', 'objective', 'evaluations', 'evaluator', 'table', 'columns')
    return json.dumps({name: search[name] for name in alike}, sort_keys=True)


def title(spec: str) -> str:
    """Returns 'amoebanet:nasbench201' of 'configs/search/amoebanet.py:nasbench201'."""
    file, _, argument = spec.partition(':')
    return f'{Path(file).stem}:{argument}'.rstrip(':')


def scores(spec: str, overrides: Overrides, random: bool, seeds: Iterable[int]) -> np.ndarray:
    """Returns (seeds, evaluations), what the best so far is worth; a process does it."""
    config = load(spec, overrides, random)
    return np.array([one(config, seed) for seed in seeds])


def one(config: ConfigDict, seed: int) -> np.ndarray:
    """Returns (evaluations,), the score of the best so far in a search with a seed."""
    search = config.search
    with config.unlocked():
        config.seed = seed
    space = registry.create('space', search.space)
    history = History()
    loop.search(
        registry.create('searcher', search.searcher, space, seed),
        loop.at_once(registry.create('evaluator', search.evaluator, space, config)),
        registry.create('objective', search.objective),
        history,
        evaluations=search.evaluations,
        at_once=search.at_once,
        in_order=search.synchronous,
    )
    told = ((r.fitness, r.metrics.get('truth', r.fitness)) for r in history.results)
    return so_far(told, search.evaluations)


def so_far(told: Iterable[tuple[float, float]], evaluations: int) -> np.ndarray:
    """Returns (evaluations,), the score that goes with the highest fitness up to each evaluation.

    Of equal ones the first counts. NaN before anything was evaluated; a search that ended early
    keeps what it had.

    Args:
      told: (fitness, score) of each evaluation.
      evaluations: how long the result is.
    """
    curve, best, score = np.full(evaluations, np.nan), FAILED, np.nan
    at = -1
    for at, (fitness, value) in enumerate(told):
        if fitness > best:
            best, score = fitness, value
        curve[at] = score
    curve[at + 1 :] = score
    return curve


def compared(curves: Sequence[Curves]) -> list[list[str]]:
    """Returns the table of searches against random search, a header first."""
    points = _points(min(c.scores.shape[1] for c in curves))
    lines = [['search', *(f'@{p}' for p in points), 'over random', 'better (equal)', 'p']]
    shown = set()
    for c in curves:
        if c.group not in shown:
            shown.add(c.group)
            lines.append([f'random, as {c.name}', *_means(c.random, points), '', '', ''])
        n = numbers_of(c)
        over = f'{n["difference"]:+.3f} ± {n["standard_error"]:.3f}'
        wins = f'{n["better"]:.0%} ({n["equal"]:.0%})'
        lines.append([c.name, *_means(c.scores, points), over, wins, f'{n["p"]:.1g}'])
    return lines


def numbers_of(c: Curves) -> dict[str, Any]:
    """Returns what is known of a search against random search at the end, and the curves' means."""
    difference = c.scores[:, -1] - c.random[:, -1]
    same = not difference.any()  # of which the test knows nothing
    return {
        'search': c.name,
        'seeds': len(difference),
        'evaluations': c.scores.shape[1],
        'difference': float(difference.mean()),
        'standard_error': float(difference.std(ddof=1) / len(difference) ** 0.5),
        'better': float((difference > 0).mean()),
        'equal': float((difference == 0).mean()),
        'p': 1.0 if same else float(stats.wilcoxon(difference).pvalue),
        'mean': c.scores.mean(0).tolist(),
        'random_mean': c.random.mean(0).tolist(),
        'last': c.scores[:, -1].tolist(),
        'random_last': c.random[:, -1].tolist(),
    }


def _points(evaluations: int) -> list[int]:
    return [p for p in POINTS if 50 <= p < evaluations or p < evaluations < 50] + [evaluations]


def _means(values: np.ndarray, points: Sequence[int]) -> list[str]:
    return [f'{values[:, point - 1].mean():.3f}' for point in points]


# ------------------------------------------------------------------------------------------------
# Run folders
# ------------------------------------------------------------------------------------------------


def read(folder: Path) -> dict[str, Any]:
    """Returns what the history of a run folder tells. Raises UserError if there is none."""
    file = folder / FILE
    if not file.is_file():
        raise UserError(f'{folder} is no run folder of a search, it has no {FILE}.')
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith('\n')]
    told = [event for event in map(json.loads, lines) if 'told' in event]
    fitness = [FAILED if event['fitness'] is None else event['fitness'] for event in told]
    metrics: list[Mapping[str, Any]] = [event['metrics'] for event in told]
    return {
        'name': folder.name,
        'failed': fitness.count(FAILED),
        'best': so_far(zip(fitness, fitness, strict=True), len(told)).tolist(),
        'seconds': sum(m.get('seconds', 0.0) for m in metrics),
        'compile_seconds': sum(m.get('compile_seconds', 0.0) for m in metrics),
    }


def summed(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the table of run folders, a header first."""
    points = _points(max(len(run['best']) for run in runs))
    header = ['run', *(f'@{p}' for p in points), 'failed', 'seconds of evaluations', 'compiling']
    lines = [header]
    for run_ in runs:
        best, seconds = run_['best'], run_['seconds']
        values = [f'{best[p - 1]:.4f}' if p <= len(best) else '' for p in points]
        part = f'{run_["compile_seconds"] / seconds:.0%}' if seconds else '-'
        lines.append([run_['name'], *values, str(run_['failed']), f'{seconds:.0f}', part])
    return lines


# ------------------------------------------------------------------------------------------------
# Plots
# ------------------------------------------------------------------------------------------------


def plot(curves: Sequence[Curves], file: Path) -> None:
    """Draws curves, a plot for each group."""
    from matplotlib.figure import Figure

    from cls.search.figures import save

    groups = list(dict.fromkeys(c.group for c in curves))
    figure = Figure((7, 4.5 * len(groups)), layout='constrained')
    axes = dict(zip(groups, figure.subplots(len(groups), 1, squeeze=False)[:, 0], strict=True))
    drawn = set()
    for c in curves:
        if c.random is not None and c.group not in drawn:
            drawn.add(c.group)
            _curve(axes[c.group], c.random, 'random', color='0.4')
        _curve(axes[c.group], c.scores, c.name)
    for one_of in axes.values():
        one_of.set(xlabel='evaluations', ylabel='best so far')
        one_of.legend(loc='lower right')
    save(figure, file)


def _curve(axes: Any, values: np.ndarray, label: str, **style: Any) -> None:
    at = np.arange(1, values.shape[1] + 1)
    (line,) = axes.plot(at, np.nanmean(values, 0), label=label, **style)
    if len(values) > 1:
        low, high = np.nanpercentile(values, (25, 75), 0)
        axes.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        middle = np.nanmean(values, 0)
        axes.set_ylim(bottom=min(middle[len(middle) // 20], axes.get_ylim()[1]))


if __name__ == '__main__':
    run(main)

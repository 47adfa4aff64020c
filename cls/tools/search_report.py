"""How searches do: of tables over many seeds against random search, of run folders as they went.

  python -m cls.tools.search_report --config configs/search/amoebanet.py:nasbench201 [...]
      --config.search.table=FILE [--seeds 100] [--config.FIELD=VALUE ...]
  python -m cls.tools.search_report --fronts -0.02 -0.07 -0.2 --config ... (as above)
  python -m cls.tools.search_report FOLDER [...]

With configs each is searched in memory with so many seeds, and beside it random search of the same
space with as many evaluations. The table has the mean score of the best so far after 50, 100, ...
evaluations: the best is by what the searcher saw, its score is what it is really worth where the
table tells (config.search.columns.truth). Then, at the end, the mean difference to random search
with the same seed and its standard error, how often the search is the better one (and equal), and
the two-sided p of Wilcoxon's signed-rank test.

With --fronts the trade-off of accuracy and cost, for searches with the objective accuracy_latency:
each is searched once with each of these exponents of its reward, and all that they evaluated makes
one front, of nets than which none is both better and cheaper. Random search has as many evaluations
in all. The table has the mean score of the best net that costs no more than 1/2, 3/4, 1, 3/2, 2 of
the objective's target, and the area under the fronts (score x doublings of the cost), from the
cheapest net to the most expensive one of any front.

With run folders of searches it has the best fitness so far, and of the time that evaluations took
the part that compiling did. With run folders of supernets' trainings it has what was derived, what
that is worth where the run's table tells, and what alpha came to; then the mean of all.

--json FILE writes all numbers, --plot FILE.png the best so far against evaluations: mean, and the
middle half of all seeds; of supernets the entropy of alpha against steps.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from cls.cli import Parser, run
from cls.config import load as configs
from cls.errors import UserError
from cls.search import loop, registry
from cls.search.fronts import area, front, within
from cls.search.history import FILE, History, Result
from cls.search.job import is_search
from cls.search.searcher import FAILED
from cls.search.supernets import report as supernets
from cls.tools.markdown import table

POINTS = (10, 20, 50, 100, 200, 300, 500, 1000, 2000, 5000, 10_000, 20_000)
CHUNK = 5  # seeds that a process does at a time
SHARES = np.array([0.5, 0.75, 1, 1.5, 2])  # of an objective's target: where fronts are shown


@dataclasses.dataclass(frozen=True)
class Curves:
    """The score of the best so far: (seeds, evaluations)."""

    name: str
    scores: np.ndarray
    random: np.ndarray | None = None  # the same of random search, seed by seed
    group: str = ''  # of curves that random search is the same for


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code. Raises UserError for mistakes."""
    parser = Parser(
        prog='python -m cls.tools.search_report',
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('folders', nargs='*', type=Path, help='run folders of searches')
    parser.add_argument('--config', nargs='+', default=[], help='FILE.py:ARGUMENT, as of cls.main')
    parser.add_argument('--seeds', type=int, default=100, help='seeds 0 to this')
    parser.add_argument('--fronts', nargs='+', type=float, metavar='W', help='exponents, below 0')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all numbers')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw the curves')
    given = sys.argv[1:] if argv is None else list(argv)
    fields = [argument for argument in given if argument.startswith('--config.')]
    args = parser.parse_args([a for a in given if a not in fields])
    if bool(args.config) == bool(args.folders):
        raise UserError('give --config FILE.py:ARGUMENT of tabular searches, or run folders.')
    if args.fronts and not args.config:
        raise UserError('--fronts is for --config FILE.py:ARGUMENT, not for run folders.')
    if args.seeds < 2:
        raise UserError(f'--seeds is {args.seeds}: expected 2 or more.')
    overrides = tuple(configs.parse_overrides(fields))
    if args.fronts:
        found = traded_off(args.config, overrides, args.seeds, args.fronts)
        numbers = front_numbers(found)
        lines, drawn = fronts_table(numbers), functools.partial(plot_fronts, numbers)
    elif args.config:
        curves = searched(args.config, overrides, args.seeds)
        numbers = [numbers_of(c) for c in curves]
        lines, drawn = compared(curves), functools.partial(plot, curves)
    elif any(supernets.is_supernet(folder) for folder in args.folders):
        numbers = [trained(folder) for folder in args.folders]
        lines, drawn = supernets.summed(numbers), functools.partial(plot_entropy, numbers)
    else:
        numbers = [read(folder) for folder in args.folders]
        curves = [Curves(run['name'], np.array([run['best']])) for run in numbers]
        lines, drawn = summed(numbers), functools.partial(plot, curves)
    print(table(lines))
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1) + '\n')
    if args.plot:
        drawn(args.plot)
    return 0


# ------------------------------------------------------------------------------------------------
# Many seeds in memory
# ------------------------------------------------------------------------------------------------

Overrides = tuple[tuple[str, str], ...]


def searched(specs: Sequence[str], overrides: Overrides, seeds: int) -> list[Curves]:
    """Returns the curves of configs, and of random search beside each, for seeds 0, 1, ...

    Raises UserError for a config that trains its trials.
    """
    checked(specs, overrides)
    groups = {spec: group(load(spec, overrides, False)) for spec in specs}
    found = beside_random(one, groups, overrides, seeds)
    return [Curves(title(spec), *map(np.stack, found[spec]), groups[spec]) for spec in specs]


def checked(specs: Sequence[str], overrides: Overrides) -> None:
    """Raises UserError for the mistakes that processes would find, each for itself."""
    for spec in specs:
        config = load(spec, overrides, False)
        space = registry.create('space', config.search.space)
        registry.create('evaluator', config.search.evaluator, space, config)


Job = tuple[str, bool]  # a config, and whether random search takes the place of its searcher


def beside_random(
    function: Callable[..., Any],
    groups: Mapping[str, str],
    overrides: Overrides,
    seeds: int,
    *more: Any,
) -> dict[str, tuple[list[Any], list[Any]]]:
    """Returns function(config, seed, *more) for seeds 0, 1, ... of configs and of random search.

    Args:
      function: what processes call.
      groups: of the configs; random search is run once for each group.
      overrides: of all configs.
      seeds: how many.
      *more: further arguments.
    """
    first = {of: spec for spec, of in reversed(groups.items())}
    jobs = [(spec, False) for spec in groups] + [(spec, True) for spec in first.values()]
    chunks = [range(i, min(i + CHUNK, seeds)) for i in range(0, seeds, CHUNK)]
    tasks = [(function, job, overrides, chunk, more) for job in jobs for chunk in chunks]
    processes = min(len(os.sched_getaffinity(0)), len(tasks))
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(processes, context) as pool:
        parts = list(pool.map(_chunk, *zip(*tasks, strict=True)))
    whole = {
        job: list(itertools.chain(*parts[i * len(chunks) : (i + 1) * len(chunks)]))
        for i, job in enumerate(jobs)
    }
    return {spec: (whole[spec, False], whole[first[of], True]) for spec, of in groups.items()}


def _chunk(
    function: Callable[..., Any], job: Job, overrides: Overrides, seeds: Iterable[int], more: Any
) -> list[Any]:
    spec, random = job
    return [function(load(spec, overrides, random), seed, *more) for seed in seeds]


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


def one(config: ConfigDict, seed: int) -> np.ndarray:
    """Returns (evaluations,), the score of the best so far in a search with a seed."""
    return so_far(((r.fitness, score(r)) for r in told(config, seed)), config.search.evaluations)


def score(result: Result) -> float:
    """Returns what a trial is really worth: its truth, of tables that tell it."""
    return result.metrics.get('truth', result.fitness)


def told(config: ConfigDict, seed: int) -> list[Result]:
    """Returns what a search in memory finds with a seed."""
    search = config.search
    with config.unlocked():
        config.seed = seed
    space = registry.create('space', search.space)
    history = History()
    loop.search(
        registry.create('searcher', search.searcher, space, seed),
        loop.max_concurrent(registry.create('evaluator', search.evaluator, space, config)),
        registry.create('objective', search.objective),
        history,
        evaluations=search.evaluations,
        max_concurrent=search.max_concurrent,
        in_order=search.synchronous,
    )
    return history.results


def so_far(results: Iterable[tuple[float, float]], evaluations: int) -> np.ndarray:
    """Returns (evaluations,), the score that goes with the highest fitness up to each evaluation.

    Of equal ones the first counts. NaN before anything was evaluated; a search that ended early
    keeps what it had.

    Args:
      results: (fitness, score) of each evaluation.
      evaluations: how long the result is.
    """
    curve, best, score = np.full(evaluations, np.nan), FAILED, np.nan
    at = -1
    for at, (fitness, value) in enumerate(results):
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
        lines.append([c.name, *_means(c.scores, points), *_against(numbers_of(c))])
    return lines


def _against(n: Mapping[str, Any]) -> list[str]:
    over = f'{n["difference"]:+.3f} ± {n["standard_error"]:.3f}'
    return [over, f'{n["better"]:.0%} ({n["equal"]:.0%})', f'{n["p"]:.1g}']


def numbers_of(c: Curves) -> dict[str, Any]:
    """Returns what is known of a search against random search at the end, and the curves' means."""
    return {
        'search': c.name,
        'evaluations': c.scores.shape[1],
        **paired(c.scores[:, -1], c.random[:, -1]),
        'mean': c.scores.mean(0).tolist(),
        'random_mean': c.random.mean(0).tolist(),
    }


def paired(ours: np.ndarray, random: np.ndarray) -> dict[str, Any]:
    """Returns how (seeds,) numbers compare with those of random search with the same seeds."""
    difference = ours - random
    same = not difference.any()  # of which the test knows nothing
    return {
        'seeds': len(difference),
        'difference': float(difference.mean()),
        'standard_error': float(difference.std(ddof=1) / len(difference) ** 0.5),
        'better': float((difference > 0).mean()),
        'equal': float((difference == 0).mean()),
        'p': 1.0 if same else float(stats.wilcoxon(difference).pvalue),
        'last': ours.tolist(),
        'random_last': random.tolist(),
    }


def _points(evaluations: int) -> list[int]:
    return [p for p in POINTS if 50 <= p < evaluations or p < evaluations < 50] + [evaluations]


def _means(values: np.ndarray, points: Sequence[int]) -> list[str]:
    return [f'{values[:, point - 1].mean():.3f}' for point in points]


# ------------------------------------------------------------------------------------------------
# Fronts of score and cost
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fronts:
    """What a search found with each seed: (n, 2) costs and scores, see cls.search.fronts."""

    name: str
    target: float  # of the objective
    fronts: list[np.ndarray]
    random: list[np.ndarray]  # of random search, seed by seed
    group: str = ''  # of searches that random search is the same for


def traded_off(
    specs: Sequence[str], overrides: Overrides, seeds: int, exponents: Sequence[float]
) -> list[Fronts]:
    """Returns the fronts of configs, and of random search beside each, for seeds 0, 1, ...

    Raises UserError as `searched`, and for another objective than accuracy_latency.
    """
    checked(specs, overrides)
    configs_ = {spec: load(spec, overrides, False) for spec in specs}
    for spec, config in configs_.items():
        if config.search.objective.name != 'accuracy_latency':
            raise UserError(
                f'{spec} has the objective {config.search.objective.name}: fronts are of '
                'accuracy_latency, as of configs/search/mnasnet.py:mnasnet_table.'
            )
    targets = {config.search.objective.target for config in configs_.values()}
    if len(targets) > 1:
        raise UserError(f'the objectives have several targets, {targets}: one table is of one.')
    groups = {spec: front_group(config) for spec, config in configs_.items()}
    found = beside_random(front_of, groups, overrides, seeds, tuple(exponents))
    return [Fronts(title(spec), *targets, *found[spec], groups[spec]) for spec in specs]


def front_group(config: ConfigDict) -> str:
    """Returns `group`, for which the exponents of the reward do not matter."""
    config = config.copy_and_resolve_references()
    config.search.objective.alpha = config.search.objective.beta = 0.0
    return group(config)


def front_of(config: ConfigDict, seed: int, exponents: Sequence[float]) -> np.ndarray:
    """Returns the front of all that is evaluated with a seed and any of the exponents.

    Random search, which does not know of them, is one search with as many evaluations.
    """
    config, results = config.copy_and_resolve_references(), []
    search = config.search
    if search.searcher.name == 'random':
        search.evaluations *= len(exponents)
        results = told(config, seed)
    else:
        for exponent in exponents:
            search.objective.alpha = search.objective.beta = exponent
            results += told(config, seed)
    good = [r.metrics for r in results if r.fitness != FAILED]
    costs = np.array([metrics[search.objective.metric] for metrics in good], float)
    return front(costs, np.array([m.get('truth', m['accuracy']) for m in good], float))


def front_numbers(found: Sequence[Fronts]) -> list[dict[str, Any]]:
    """Returns what is known of fronts against those of random search.

    `limits` are costs, `within` and `random_within` the mean best scores at no more than these;
    `last` and `random_last` are areas.
    """
    whole: dict[str, list[np.ndarray]] = {}
    for f in found:
        whole.setdefault(f.group, []).extend(f.fronts + f.random)
    numbers = []
    for f in found:
        (low, floor), (high, _) = (
            limit(np.concatenate(whole[f.group]), 0) for limit in (np.min, np.max)
        )
        corners = {'low': low, 'high': high, 'floor': floor}
        ours, random = (
            np.array([area(front, **corners) for front in fronts])
            for fronts in (f.fronts, f.random)
        )
        limits = np.geomspace(low, high, 50)
        numbers.append(
            {
                'search': f.name,
                'group': f.group,
                'target': f.target,
                **paired(ours, random),
                'limits': limits.tolist(),
                'within': _within(f.fronts, limits),
                'random_within': _within(f.random, limits),
                'at': _within(f.fronts, f.target * SHARES),
                'random_at': _within(f.random, f.target * SHARES),
            }
        )
    return numbers


def _within(fronts: Sequence[np.ndarray], limits: np.ndarray) -> list[float | None]:
    """Returns the mean best score at no more than each cost; None unless each seed has a net."""
    means = np.mean([within(front, limits) for front in fronts], 0)
    return [None if np.isnan(mean) else float(mean) for mean in means]


def fronts_table(numbers: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the table of fronts against those of random search, a header first."""
    header = ['search', *(f'cost {numbers[0]["target"] * share:g}' for share in SHARES), 'area']
    lines = [[*header, 'over random', 'better (equal)', 'p']]
    shown = set()
    for n in numbers:
        if n['group'] not in shown:
            shown.add(n['group'])
            random = f'{np.mean(n["random_last"]):.3f}'
            lines.append([f'random, as {n["search"]}', *map(_score, n['random_at']), random])
            lines[-1] += ['', '', '']
        ours = [*map(_score, n['at']), f'{np.mean(n["last"]):.3f}']
        lines.append([n['search'], *ours, *_against(n)])
    return lines


def _score(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'


# ------------------------------------------------------------------------------------------------
# Run folders
# ------------------------------------------------------------------------------------------------


def read(folder: Path) -> dict[str, Any]:
    """Returns what the history of a run folder tells. Raises UserError if it has none."""
    file = folder / FILE
    if not file.is_file():
        raise UserError(f'{folder} is no run folder of a search, it has no {FILE}.')
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith('\n')]
    told = [event for event in map(json.loads, lines) if 'told' in event]
    if not told:
        raise UserError(f'{file} has no evaluations yet.')
    fitness = [FAILED if event['fitness'] is None else event['fitness'] for event in told]
    metrics: list[Mapping[str, Any]] = [event['metrics'] for event in told]
    return {
        'name': folder.name,
        'failed': fitness.count(FAILED),
        'best': so_far(zip(fitness, fitness, strict=True), len(told)).tolist(),
        'seconds': sum(m.get('seconds', 0.0) for m in metrics),
        'compile_seconds': sum(m.get('compile_seconds', 0.0) for m in metrics),
    }


def trained(folder: Path) -> dict[str, Any]:
    """Returns what a supernet's run came to. Raises UserError for other folders."""
    if not supernets.is_supernet(folder):
        raise UserError(f'{folder} trained no supernet, and others did: expected one kind of runs.')
    return supernets.read(folder)


def summed(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the table of run folders, a header first."""
    points = _points(max(len(run['best']) for run in runs))[:-1]  # the last is the best
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
    """Draws curves, a plot for each group."""
    with _drawn([c.group for c in curves], file, 'evaluations', 'best so far') as axes:
        drawn = set()
        for c in curves:
            if c.random is not None and c.group not in drawn:
                drawn.add(c.group)
                _curve(axes[c.group], c.random, 'random', color='0.4')
            _curve(axes[c.group], c.scores, c.name)


def plot_fronts(numbers: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws mean fronts, a plot for each group."""
    groups = [n['group'] for n in numbers]
    with _drawn(groups, file, 'cost', 'best that costs no more', xscale='log') as axes:
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
    """Draws how decided the supernets' architectures became."""
    with _drawn([''], file, 'steps', 'entropy of alpha (nats)') as axes:
        for run_ in runs:
            axes[''].plot(*zip(*run_['steps'], strict=True), label=run_['name'])


@contextlib.contextmanager
def _drawn(
    groups: Iterable[str], file: Path, xlabel: str, ylabel: str, **more: Any
) -> Iterator[dict[str, Any]]:
    """Gives axes for each group, and writes them to a file when they are full."""
    from matplotlib.figure import Figure

    from cls.search.figures import save

    groups = list(dict.fromkeys(groups))
    figure = Figure((7, 4.5 * len(groups)), layout='constrained')
    axes = dict(zip(groups, figure.subplots(len(groups), 1, squeeze=False)[:, 0], strict=True))
    yield axes
    for one_of in axes.values():
        one_of.set(xlabel=xlabel, ylabel=ylabel, **more)
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

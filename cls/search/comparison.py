"""Comparison of searches with random search, over many seeds: the best so far, and Pareto fronts.

The searches run in memory, in processes of this machine, with configs that look up their trials in
a table. cls.tools.search_report prints the comparisons.
"""

import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from cls.config import load as configs
from cls.errors import UserError
from cls.search import loop, registry
from cls.search.fronts import area, front, within
from cls.search.history import History, Result
from cls.search.job import SearchSpec, is_search
from cls.search.searcher import FAILED

POINTS = (10, 20, 50, 100, 200, 300, 500, 1000, 2000, 5000, 10_000, 20_000)  # evaluations shown
CHUNK = 5  # seeds of a task
SHARES = np.array([0.5, 0.75, 1, 1.5, 2])  # costs shown of fronts, over the objective's target

Overrides = tuple[tuple[str, str], ...]
Job = tuple[str, bool]  # a config, and whether random search replaces its searcher


@dataclasses.dataclass(frozen=True)
class Curves:
    """The score of the best so far: (seeds, evaluations)."""

    name: str
    scores: np.ndarray
    random: Any = None  # the same of random search, seed by seed; None: not compared
    group: str = ''  # shared by curves with the same random search


def compare(specs: Sequence[str], overrides: Overrides, seeds: int) -> list[Curves]:
    """Returns the curves of configs and of random search in their place, for seeds 0, 1, ...

    Raises UserError for a config that trains its trials.
    """
    check(specs, overrides)
    groups = {spec: group(load(spec, overrides, False)) for spec in specs}
    results = with_random(best_of_search, groups, overrides, seeds)
    stacked = {spec: [np.stack(scores) for scores in results[spec]] for spec in specs}
    return [Curves(title(spec), *stacked[spec], group=groups[spec]) for spec in specs]  # pyright: ignore[reportCallIssue]


def check(specs: Sequence[str], overrides: Overrides) -> None:
    """Raises UserError for mistakes in configs, before each process does."""
    for spec in specs:
        SearchSpec.from_config(load(spec, overrides, False))


def with_random(
    function: Callable[..., Any],
    groups: Mapping[str, str],
    overrides: Overrides,
    seeds: int,
    *more: Any,
) -> dict[str, tuple[list[Any], list[Any]]]:
    """Returns function(config, seed, *more) for seeds 0, 1, ... of configs and of random search.

    Args:
      function: the function to call in processes.
      groups: config -> group; random search runs once for each group.
      overrides: overrides of all configs.
      seeds: number of seeds.
      *more: further arguments.
    """
    first = {of: spec for spec, of in reversed(list(groups.items()))}
    jobs = [(spec, False) for spec in groups] + [(spec, True) for spec in first.values()]
    chunks = [range(i, min(i + CHUNK, seeds)) for i in range(0, seeds, CHUNK)]
    tasks = [(function, job, overrides, chunk, more) for job in jobs for chunk in chunks]
    processes = min(len(os.sched_getaffinity(0)), len(tasks))
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(processes, context) as pool:
        parts = list(pool.map(_chunk, *zip(*tasks, strict=True)))
    results = {
        job: list(itertools.chain(*parts[i * len(chunks) : (i + 1) * len(chunks)]))
        for i, job in enumerate(jobs)
    }
    return {spec: (results[spec, False], results[first[of], True]) for spec, of in groups.items()}


def _chunk(
    function: Callable[..., Any], job: Job, overrides: Overrides, seeds: Iterable[int], more: Any
) -> list[Any]:
    spec, random = job
    return [function(load(spec, overrides, random), seed, *more) for seed in seeds]


@functools.cache
def load(spec: str, overrides: Overrides, random: bool) -> ConfigDict:
    """Returns a config that looks its trials up; with `random`, random search replaces its own."""
    config = configs.load(spec, overrides)
    if not is_search(config) or 'proxy' in config:
        raise UserError(
            f'{spec} is not a search by a table, for which seeds are cheap: expected an arm as '
            'nasbench201; other searches are run by cls.main, then give their run folders.'
        )
    if random:
        with config.unlocked():
            config.search.searcher = registry.defaults('searcher', 'random')
    return config


def group(config: ConfigDict) -> str:
    """Returns a text that configs share if random search does the same in them."""
    search = config.search.to_dict()
    alike = ('space', 'objective', 'evaluations', 'evaluator', 'table', 'columns')
    return json.dumps({name: search[name] for name in alike}, sort_keys=True)


def title(spec: str) -> str:
    """Returns 'amoebanet:nasbench201' of 'configs/search/amoebanet.py:nasbench201'."""
    file, _, argument = spec.partition(':')
    return f'{Path(file).stem}:{argument}'.rstrip(':')


def best_of_search(config: ConfigDict, seed: int) -> np.ndarray:
    """Returns (evaluations,), the score of the best so far in a search with a seed."""
    pairs = ((result.fitness, worth(result)) for result in results_of(config, seed))
    return so_far(pairs, config.search.evaluations)


def worth(result: Result) -> float:
    """Returns the score of a trial: its truth, if the table has it."""
    return result.metrics.get('truth', result.fitness)


def results_of(config: ConfigDict, seed: int) -> list[Result]:
    """Returns the results of a search in memory with a seed."""
    with config.unlocked():
        config.seed = seed
    spec, history = SearchSpec.from_config(config), History()
    loop.search(
        spec.searcher,
        loop.submit_inline(spec.evaluate),
        spec.objective,
        history,
        evaluations=spec.evaluations,
        max_concurrent=spec.engine.max_concurrent,
        in_order=spec.synchronous,
    )
    return history.results


def so_far(results: Iterable[tuple[float, float]], evaluations: int) -> np.ndarray:
    """Returns (evaluations,), the score of the highest fitness up to each evaluation.

    Of equal ones the first counts. The curve is NaN before the first trial that did not fail, and
    constant after the end of a shorter search.

    Args:
      results: (fitness, score) of each evaluation.
      evaluations: length of the curve.
    """
    curve, best, score = np.full(evaluations, np.nan), FAILED, np.nan
    at = -1
    for at, (fitness, value) in enumerate(results):
        if fitness > best:
            best, score = fitness, value
        curve[at] = score
    curve[at + 1 :] = score
    return curve


def curves_table(curves: Sequence[Curves]) -> list[list[str]]:
    """Returns the table of searches against random search, a header first."""
    points = shown_points(min(c.scores.shape[1] for c in curves))
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
    """Returns the comparison of a search with random search at the end, and the mean curves."""
    return {
        'search': c.name,
        'evaluations': c.scores.shape[1],
        **paired(c.scores[:, -1], c.random[:, -1]),
        'mean': c.scores.mean(0).tolist(),
        'random_mean': c.random.mean(0).tolist(),
    }


def paired(ours: np.ndarray, random: np.ndarray) -> dict[str, Any]:
    """Returns the comparison of (seeds,) numbers with those of random search, seed by seed."""
    difference = ours - random
    same = not difference.any()  # the test is undefined
    test: Any = None if same else stats.wilcoxon(difference)
    return {
        'seeds': len(difference),
        'difference': float(difference.mean()),
        'standard_error': float(difference.std(ddof=1) / len(difference) ** 0.5),
        'better': float((difference > 0).mean()),
        'equal': float((difference == 0).mean()),
        'p': 1.0 if same else float(test.pvalue),
        'last': ours.tolist(),
        'random_last': random.tolist(),
    }


def shown_points(evaluations: int) -> list[int]:
    """Returns the numbers of evaluations that the table of a search shows."""
    return [p for p in POINTS if 50 <= p < evaluations or p < evaluations < 50] + [evaluations]


def _means(values: np.ndarray, points: Sequence[int]) -> list[str]:
    return [f'{values[:, point - 1].mean():.3f}' for point in points]


@dataclasses.dataclass(frozen=True)
class Fronts:
    """The fronts of a search, one for each seed: (n, 2) costs and scores, see cls.search.fronts."""

    name: str
    target: float  # of the objective
    fronts: list[np.ndarray]
    random: list[np.ndarray]  # of random search, seed by seed
    group: str = ''  # shared by searches with the same random search


def compare_fronts(
    specs: Sequence[str], overrides: Overrides, seeds: int, exponents: Sequence[float]
) -> list[Fronts]:
    """Returns the fronts of configs and of random search in their place, for seeds 0, 1, ...

    Raises UserError as `compare`, and for another objective than accuracy_latency.
    """
    check(specs, overrides)
    loaded = {spec: load(spec, overrides, False) for spec in specs}
    for spec, config in loaded.items():
        if config.search.objective.name != 'accuracy_latency':
            raise UserError(
                f'{spec} has the objective {config.search.objective.name}: fronts are of '
                'accuracy_latency, as of configs/search/mnasnet.py:mnasnet_table.'
            )
    targets = {config.search.objective.target for config in loaded.values()}
    if len(targets) > 1:
        raise UserError(f'the objectives have several targets, {targets}: one table is of one.')
    groups = {spec: front_group(config) for spec, config in loaded.items()}
    results = with_random(front_of, groups, overrides, seeds, tuple(exponents))
    return [Fronts(title(spec), *targets, *results[spec], groups[spec]) for spec in specs]  # pyright: ignore[reportCallIssue]


def front_group(config: ConfigDict) -> str:
    """Returns `group` without the exponents of the reward, which random search ignores."""
    config = config.copy_and_resolve_references()
    config.search.objective.alpha = config.search.objective.beta = 0.0
    return group(config)


def front_of(config: ConfigDict, seed: int, exponents: Sequence[float]) -> np.ndarray:
    """Returns the front of all evaluations with a seed and any of the exponents.

    Random search ignores the exponents, and is one search with as many evaluations.
    """
    config, results = config.copy_and_resolve_references(), []
    search = config.search
    if search.searcher.name == 'random':
        search.evaluations *= len(exponents)
        results = results_of(config, seed)
    else:
        for exponent in exponents:
            search.objective.alpha = search.objective.beta = exponent
            results += results_of(config, seed)
    good = [r.metrics for r in results if r.fitness != FAILED]
    costs = np.array([metrics[search.objective.metric] for metrics in good], float)
    return front(costs, np.array([m.get('truth', m['accuracy']) for m in good], float))


def front_numbers(searches: Sequence[Fronts]) -> list[dict[str, Any]]:
    """Returns the comparison of fronts with those of random search.

    `limits` are costs, `within` and `random_within` the mean best scores up to each of them; `last`
    and `random_last` are areas.
    """
    points: dict[str, list[np.ndarray]] = {}
    for f in searches:
        points.setdefault(f.group, []).extend(f.fronts + f.random)
    numbers = []
    for f in searches:
        (low, floor), (high, _) = (
            limit(np.concatenate(points[f.group]), 0) for limit in (np.min, np.max)
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
    """Returns the mean best score up to each cost; None unless each seed has a network."""
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

"""The sections of a report on several runs, or on a sweep."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cls.experiments import compare
from cls.experiments.compare import Comparison
from cls.experiments.report import charts
from cls.experiments.report import sections as run_sections
from cls.experiments.report.charts import Series
from cls.experiments.report.data import Details
from cls.experiments.report.html import Html, joined, table, tag
from cls.experiments.report.page import page
from cls.experiments.report.recipe import Recipe
from cls.experiments.report.scales import duration
from cls.experiments.report.sections import section, tile, time_bar, time_key
from cls.experiments.runs import FAILED, FINISHED, OPEN, PRUNED, RunData, SweepData
from cls.experiments.statistics import LEVEL
from cls.run import goodput, metric_names

_LINES = 16  # groups in a chart: colors repeat with dashes after the first 8


def best(comparison: Comparison) -> tuple[RunData, str]:
    """Returns the run with the highest top-1, and the metric: of validation if all runs have it.

    For images with several labels it is mAP in place of top-1. The average of weights counts where
    a run keeps one. Of equal ones it is the first.
    """
    main = metric_names.main(comparison.metrics)
    for kind in metric_names.KINDS:
        for ema in (True, False):
            name = f'{metric_names.weights_name(kind, ema=ema)}/{main}'
            if all(name in (run.result or {}) for run in comparison.runs):
                return max(comparison.runs, key=lambda run: (run.result or {})[name]), name
    name = next(name for name in comparison.metrics if name.endswith(f'/{main}'))
    runs = [run for run in comparison.runs if name in (run.result or {})]
    return max(runs, key=lambda run: (run.result or {})[name]), name


def header(name: str, comparison: Comparison, sweep: SweepData | None) -> Html:
    """Returns the title, the number of runs, and the mean of the best group."""
    runs, groups = comparison.runs, comparison.groups
    configs = f'{len(groups)} config{"s" * (len(groups) > 1)}'
    lead = f'{configs}, {len(runs)} finished runs'
    done, text = True, 'finished'
    if sweep:
        counts = {state: sweep.count(state) for state in (FINISHED, FAILED, PRUNED, OPEN)}
        parts = [f'{count} {state}' for state, count in counts.items() if count]
        lead = f'sweep of {len(sweep.trials)} trials ({", ".join(parts)}), {configs}'
        done = not counts[OPEN] and not counts[FAILED]
        text = 'finished' if done else 'failures' if not counts[OPEN] else 'unfinished'
    elif comparison.unfinished:
        done, text = False, f'{len(comparison.unfinished)} unfinished'
    status = tag('span', text, class_=f'status {"done" if done else "open"}')
    tiles = []
    for metric in compare.chosen_metrics(comparison):
        summaries = comparison.summaries(metric)
        means = [(summary.mean, i) for i, summary in enumerate(summaries) if summary]
        place = max(means)[1]
        tiles.append(tile(str(summaries[place]), f'highest mean {metric}: {groups[place].label}'))
    missing = [
        tag('p', f'{run.name} is not finished: it does not count.', class_='warning')
        for run in comparison.unfinished
    ]
    title = tag('h1', name)
    return joined(
        title,
        tag('p', status, ' ', lead, class_='lead'),
        *missing,
        tag('div', *tiles, class_='tiles wide'),
    )


def compared(comparison: Comparison, sweep: SweepData | None) -> Iterator[tuple[str, Html]]:
    """Yields the titles and sections of the comparison itself."""
    every = [
        section('Comparison', *results(comparison)),
        section('Differences', differences(comparison)),
        section('Learning curves', *learning_curves(comparison)),
        section('Runs', *each_run(comparison)),
        section('Failures', failures(sweep)) if sweep and sweep.failures else None,
    ]
    yield from filter(None, every)


def results(comparison: Comparison) -> Iterator[Html]:
    """Yields, of each top-1 metric, the results by config as a chart and as a table."""
    names = compare.short_names(comparison)
    if names != [group.label for group in comparison.groups]:
        yield table(
            ['', 'config'],
            [[n, g.label] for n, g in zip(names, comparison.groups, strict=True)],
            words=2,
        )
    note = f'Dots: seeds. Line: mean and its {100 * LEVEL:.0f} % interval, cut at the axis.'
    drawn, tables = [], []
    for metric in compare.chosen_metrics(comparison):
        rows = compare.results_table(comparison, metric, names)
        tables.append(table(rows[0], rows[1:]))
        spread = []
        for name, group, summary in zip(
            names, comparison.groups, comparison.summaries(metric), strict=True
        ):
            if summary:
                values = list(group.results(metric).values())
                spread.append(charts.Spread(name, values, summary.mean, summary.low, summary.high))
        drawn.append(charts.dots(metric, spread))
    yield tag('div', *drawn, class_='charts')
    yield tag('p', note, class_='note')
    yield from tables
    if all(len(group.runs) < 2 for group in comparison.groups):
        yield tag('p', compare.NO_SPREAD, class_='note')


def differences(comparison: Comparison) -> Html:
    """Returns the table of the fields that differ between configs."""
    names = compare.short_names(comparison)
    rows = compare.fields_table(names, [group.fields for group in comparison.groups])
    if len(rows) < 2:
        return tag('p', 'The configs are equal but for the seed.', class_='lead')
    return table(rows[0], rows[1:], words=len(rows[0]))


def learning_curves(comparison: Comparison) -> Iterator[Html]:
    """Yields a chart of each metric: the mean over seeds, and the range of the runs."""
    metrics = dict.fromkeys(name for run in comparison.runs for name in run.curves)
    wanted = [name for name in metrics if name.endswith(('/top1', '/map', '/loss'))]
    names = dict(
        zip([g.label for g in comparison.groups], compare.short_names(comparison), strict=True)
    )
    drawn = []
    for metric in wanted:
        series = []
        for i, curve in enumerate(list(compare.curves(comparison, metric))[:_LINES]):
            steps = curve.steps.tolist()
            low, high = curve.values.min(0).tolist(), curve.values.max(0).tolist()
            band = list(zip(steps, low, high, strict=True)) if len(curve.values) > 1 else ()
            mean = list(zip(steps, curve.values.mean(0).tolist(), strict=True))
            series.append(Series(names[curve.label], mean, i, i >= charts.COLORS, band))
        if series:
            drawn.append(charts.lines(metric, series))
    if not drawn:
        yield tag('p', 'Nothing has been logged.', class_='lead')
        return
    yield tag('div', *drawn, class_='charts')
    note = 'Lines: mean over seeds. Bands: from the lowest to the highest run.'
    if len(comparison.groups) > _LINES:
        note += f' The first {_LINES} of {len(comparison.groups)} configs.'
    yield tag('p', note, class_='note')


def each_run(comparison: Comparison) -> Iterator[Html]:
    """Yields the results and the time of each run."""
    metrics = compare.chosen_metrics(comparison)
    rows = []
    for group in comparison.groups:
        for run in group.runs:
            result = run.result or {}
            record = result.get('time') or run.time
            numbers = [f'{result[m]:.2f}' if m in result else '–' for m in metrics]
            time = duration(goodput.running(record)) if goodput.total(record) else '–'
            part = f'{100 * goodput.goodput(record):.1f}' if goodput.total(record) else '–'
            bar = tag('div', time_bar(record), class_='small')
            rows.append([run.name, group.label, bar, run.seed, *numbers, time, part])
    header = ['run', 'config', 'time by bucket', 'seed', *metrics, 'time', 'goodput %']
    yield table(header, rows, words=3, class_='tall')
    yield time_key()


def of_tables(
    title: str,
    tables: Sequence[tuple[str, Sequence[Sequence[str]]]],
    comparison: Comparison,
    made_by: str,
) -> bytes:
    """Returns a page with tables and the learning curves of a comparison.

    Args:
      title: of the page.
      tables: (heading, rows with a header).
      comparison: the comparison.
      made_by: the program, for the last line.
    """
    every = [section(heading, table(rows[0], rows[1:])) for heading, rows in tables]
    every.append(section('Learning curves', *learning_curves(comparison)))
    return page(title, tag('h1', title), filter(None, every), made_by)


def failures(sweep: SweepData) -> Html:
    """Returns the trials of a sweep that failed, with their reasons."""
    rows = [[trial.name, trial.message] for trial in sweep.failures]
    return table(['trial', 'reason'], rows, words=2)


def chosen(run: RunData, metric: str) -> Html:
    """Returns the title of the details of the best run."""
    kind = metric.partition('/')[0].partition('_')[0]
    value: Any = (run.result or {}).get(metric)
    sentence = f'The highest {metric}, {value:.2f} %.'
    if kind == 'test':
        sentence += ' It was chosen by its test images: its own figure is optimistic.'
    return joined(tag('h1', f'Best run: {run.name}', id='best'), tag('p', sentence, class_='lead'))


def of_several(
    name: str,
    runs: Sequence[RunData],
    sweep: SweepData | None,
    varied: Sequence[str],
    details_of: Callable[[RunData], tuple[Details, Recipe | None]],
    made_by: str,
) -> bytes:
    """Returns the report of several runs: their comparison, and the details of the best one.

    Args:
      name: the title.
      runs: the runs.
      sweep: the sweep that they are of, or None.
      varied: fields to show for each config even if all have the same value.
      details_of: returns the content of the report of one run.
      made_by: the program, for the last line.

    Raises UserError if no run is finished.
    """
    comparison = compare.compare(runs, varied)
    run, metric = best(comparison)
    each, recipe = details_of(run)
    parts = list(compared(comparison, sweep))
    (title, curves), *rest = run_sections.of_run(each, recipe)
    first = joined(chosen(run, metric), run_sections.header(each, titled=False))
    parts += [(title, joined(first, curves)), *rest]
    return page(f'{name}: report', header(name, comparison, sweep), parts, made_by)

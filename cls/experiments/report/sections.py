"""The sections of the report on one run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cls import models
from cls.config import defaults
from cls.evaluation.tables import CLASS_METRICS
from cls.experiments.report import charts
from cls.experiments.report.charts import Series
from cls.experiments.report.class_sections import calibrated, classes, mistakes
from cls.experiments.report.data import Details, Evaluation
from cls.experiments.report.html import Html, details, joined, pairs, table, tag
from cls.experiments.report.recipe import Recipe
from cls.experiments.report.scales import duration
from cls.experiments.runs import RunData
from cls.inference import summarizing
from cls.run import goodput, metric_names

# Metrics by their last name: the title of their chart and of its axis; the first ones open.
_CHARTS = {
    'loss': ('Loss', 'nats'),
    'top1': ('Top-1 accuracy', '%'),
    'map': ('Mean average precision', '%'),
    'learning_rate': ('Learning rate', ''),
    'images_per_second': ('Speed', 'images/s'),
    'top5': ('Top-5 accuracy', '%'),
    'grad_norm': ('Norm of the gradients', ''),
    'param_norm': ('Norm of the parameters', ''),
}
_OPEN = 5
_HIDDEN = ('time', 'goodput', 'epoch', 'steps')  # in a section of their own, or not of the training
METRICS = {
    'map': ('mAP', ' %'),
    'top1': ('top-1', ' %'),
    'top5': ('top-5', ' %'),
    'loss': ('loss', ''),
    'ece': ('calibration error', ' %'),
    'precision': ('precision', ' %'),
    'recall': ('recall', ' %'),
    'f1': ('F1', ' %'),
    'auroc': ('AUROC', ' %'),
}
_MEANS = [metric for metric, _ in CLASS_METRICS]


def section(title: str, *content: Any) -> tuple[str, Html] | None:
    """Returns (title, section), or None if it is empty."""
    parts = [part for part in content if part]
    if not parts:
        return None
    return title, tag('section', tag('h2', title), *parts, id=anchor(title))


def anchor(title: str) -> str:
    """Returns the fragment of a section's address."""
    return title.lower().replace(' ', '-')


def of_run(each: Details, recipe: Recipe | None) -> Iterator[tuple[str, Html]]:
    """Yields the titles and sections of a run's report."""
    found = each.evaluation
    every = [
        section('Curves', curves(each.run)),
        section('Results', *results(each)),
        section('Classes', *classes(found)) if found else None,
        section('Calibration', calibrated(found)) if found and found.confusion else None,
        section('Mistakes', *mistakes(each)) if found and found.confusion else None,
        section('Time', *time_account(each.run)),
        section('Model', *model(each)),
        section('Recipe', *recipe_of(each, recipe)),
        section('Environment', environment(each)),
    ]
    yield from filter(None, every)


# ------------------------------------------------------------------------------------- curves


def curves(run: RunData) -> Html:
    """Returns the charts of all logged metrics."""
    groups: dict[str, list[str]] = {}
    for name in run.curves:
        prefix, _, last = name.rpartition('/')
        if prefix not in _HIDDEN and last not in _HIDDEN:
            groups.setdefault(last, []).append(name)
    ordered = [last for last in _CHARTS if last in groups]
    ordered += [last for last in groups if last not in _CHARTS]
    drawn = {}
    for last in ordered:
        series = [each for each in _series(run, groups[last]) if each.points]
        if series:
            title, unit = _CHARTS.get(last, (last, ''))
            drawn[last] = charts.lines(title, series, ylabel=unit, note=_thin(series))
    shown = [drawn[last] for last in drawn if last in list(_CHARTS)[:_OPEN]]
    more = [drawn[last] for last in drawn if last not in list(_CHARTS)[:_OPEN]]
    if not drawn:
        return tag('p', 'Nothing has been logged yet.', class_='lead')
    rest = details(f'{len(more)} more curves', tag('div', *more, class_='charts')) if more else None
    steps = int(max((count for _, count in run.curve('train/steps')), default=1))
    note = tag('p', f'Training figures are means over up to {steps:,} steps.', class_='note')
    return joined(tag('div', *shown, class_='charts'), note if steps > 1 else None, rest)


def _series(run: RunData, names: Sequence[str]) -> Iterator[Series]:
    for index, name in enumerate(names):
        yield Series(name.rpartition('/')[0] or name, run.curve(name), index)


def _thin(series: Sequence[Series]) -> str | None:
    most = max(len(each.points) for each in series)
    if most <= 400:
        return None
    return f'Of up to {most:,} logged points of a line about 400 are drawn, extremes included.'


# ------------------------------------------------------------------------------------ results


def results(each: Details) -> Iterator[Html]:
    """Yields the metrics of all sets of weights, and how they were measured."""
    found, run = each.evaluation, each.run
    if found:
        sets = [key.removesuffix('/top1') for key in found.values if key.endswith('/top1')]
        yield tag('p', measured(found), ' ', tested(run), class_='lead')
        shown = _measured(found.values)
        rows = [[_set_name(name), *_numbers(found.values, name, shown)] for name in sets]
        kept = run.result or {}
        others = [key.removesuffix('/top1') for key in kept if key.endswith('/top1')]
        others = [name for name in others if name not in sets]
        rows += [[_set_name(name), *_numbers(kept, name, shown)] for name in others]
        yield table(['weights', *(''.join(METRICS[metric]) for metric in shown)], rows)
        if found.confusion:
            yield tag('p', _means_note(found), class_='note')
    elif run.result:
        sets = [key.removesuffix('/top1') for key in run.result if key.endswith('/top1')]
        split = run.result.get('split')
        yield tag('p', f'From result.json, split {split!r}. ', tested(run), class_='lead')
        shown = _measured(run.result)
        rows = [[_set_name(name), *_numbers(run.result, name, shown)] for name in sets]
        yield table(['weights', *(''.join(METRICS[metric]) for metric in shown)], rows)
    else:
        yield tag('p', 'The run has no result yet.', class_='lead')


def _measured(values: Mapping[str, Any]) -> list[str]:
    """Returns the METRICS that an evaluation has."""
    names = {key.rpartition('/')[2] for key in values}
    return [metric for metric in METRICS if metric in names]


def _numbers(values: Mapping[str, Any], name: str, metrics: Sequence[str]) -> list[str]:
    return [_number(values.get(f'{name}/{metric}'), metric) for metric in metrics]


def _number(value: Any, metric: str) -> str:
    if not isinstance(value, (int, float)):
        return '–'
    return f'{value:.4f}' if metric == 'loss' else f'{value:.2f}'


def _set_name(name: str) -> str:
    """Returns 'test, average of weights' of 'test_ema'."""
    kind, *flags = name.split('_')
    titles = {'ema': 'average of weights', 'precise': 'precise statistics'}
    return ', '.join([kind, *(titles.get(flag, flag) for flag in flags)])


def measured(found: Evaluation) -> str:
    """Returns a sentence on the images, the split and the protocol of an evaluation."""
    values = found.values
    return (
        f'{found["images"]:,} images of {values.get("data", "the data set")}, split '
        f'{values.get("split", "")!r}, protocol {values.get("protocol")}, '
        f'checkpoint of step {values.get("step", 0):,}. {found.origin}'
    )


def tested(run: RunData) -> str:
    """Returns a sentence on how often a run has seen its test images; '' if that is unknown."""
    result = run.result or {}
    if isinstance(words := result.get('evaluated'), str):
        return f'{words[:1].upper()}{words[1:].rstrip(".")}.'
    counts = {
        kind: max((len(run.curve(name)) for name in run.curves if _is_of(name, kind)), default=0)
        or int(any(_is_of(name, kind) for name in result))
        for kind in metric_names.KINDS
    }
    if counts['test'] > 1:
        return (
            f'The test images were evaluated {counts["test"]} times during the training: choices '
            'by these figures make them optimistic.'
        )
    if counts['test'] == 1:
        chosen = ' Choices were by validation images.' if counts['validation'] else ''
        return f'The test images were evaluated once, at the end.{chosen}'
    if counts['validation']:
        return 'The figures during the training are of validation images; none are of test images.'
    return ''


def _is_of(name: str, kind: str) -> bool:
    """Whether a metric is the top-1 accuracy on a kind of split."""
    prefix, _, last = name.rpartition('/')
    return last == 'top1' and prefix.partition('_')[0] == kind


def _means_note(found: Evaluation) -> str:
    error = found.get('auroc_error')
    bound = f' AUROC is exact to {error:.2g} points.' if error else ''
    return (
        f'Precision, recall, F1 and AUROC are means over the {found["classes_with_images"]:,} '
        f'classes with images; AUROC is of each class against the rest.{bound}'
    )


# ---------------------------------------------------------------------------- time, environment


def time_account(run: RunData) -> Iterator[Html]:
    """Yields the time of a run by bucket, over all restarts."""
    record = (run.result or {}).get('time') or run.time
    total = goodput.total(record)
    if not total:
        yield tag('p', 'No time is recorded.', class_='lead')
        return
    restarts = int((run.result or {}).get('restarts', run.time.get('restarts', 0)))
    text = (
        f'{duration(goodput.running(record))} in all, goodput {100 * goodput.goodput(record):.1f} %'
    )
    if restarts:
        overall = 100 * goodput.goodput(record, downtime=True)
        text += f'; {restarts} restarts, goodput with downtime {overall:.1f} %'
    yield tag('p', f'{text}. Goodput is the fraction spent on steps that were kept.', class_='lead')
    yield time_bar(record)
    rows = [
        [joined(_key(i), name), duration(record[name]), f'{100 * record[name] / total:.1f}']
        for i, name in enumerate(goodput.BUCKETS)
        if record.get(name)
    ]
    yield table(['', 'time', '%'], rows)


def time_bar(record: Mapping[str, float]) -> Html:
    """Returns the buckets of a time account as a bar."""
    parts = [(name, record.get(name, 0.0), i) for i, name in enumerate(goodput.BUCKETS)]
    return charts.stacked(parts, 'time by bucket')


def _key(number: int) -> Html:
    return tag('i', class_=f'key box s{number}')


def time_key() -> Html:
    """Returns the legend of `time_bar`."""
    items = [tag('li', _key(i), name) for i, name in enumerate(goodput.BUCKETS)]
    return tag('ul', *items, class_='legend')


def environment(each: Details) -> Html | None:
    """Returns versions, code and devices of a run."""
    values = dict(each.environment)
    packages = values.pop('packages', {})
    rows = [(name.replace('_', ' '), value) for name, value in values.items()]
    rows += [(name, version) for name, version in packages.items()]
    return pairs(rows) if rows else tag('p', 'No environment.json.', class_='lead')


# ------------------------------------------------------------------------------ model, recipe


def model(each: Details) -> Iterator[Html]:
    """Yields the network: its paper, and its stages."""
    name = each.run.config.get('model', {}).get('name', '')
    if models.is_known(name) and not models.is_supernet(name):
        variant = models.variant(name)
        system = variant.system
        paper = tag('p', f'{name}: {system.name}, {system.title}, {system.venue}', class_='lead')
        yield paper
    if not each.stages:
        return
    rows = [list(summarizing.cells(row)) for row in each.stages]
    total = summarizing.total(each.stages)
    rows.append(['all', '', *(f'{count:,}' for count in total), ''])
    header = ['stage', 'output', 'parameters', 'MACs', 'activations', 'receptive field']
    yield table(header, rows, words=2)
    yield tag(
        'p',
        'For one image: multiply-adds of convolutions and matrix products (MACs), the values they '
        'return (activations), and the receptive field in pixels; * also gated by the whole image.',
        class_='note',
    )


def recipe_of(each: Details, recipe: Recipe | None) -> Iterator[Html]:
    """Yields the nearest recipe with its sources, and all fields of the config."""
    fields = each.run.fields
    if recipe:
        yield tag('p', joined('Nearest recipe: ', tag('code', recipe.spec), f' ({recipe.about})'))
        if recipe.differences:
            yield table(['field', 'recipe', 'this run'], recipe.differences, words=3)
        else:
            yield tag('p', 'No field that the training depends on differs.', class_='note')
        yield details(f'{recipe.name}, with its sources', tag('pre', recipe.text))
    groups: dict[str, list[list[Any]]] = {}
    for name, value in fields.items():
        field = defaults.field(name)
        differs = field is None or value != field.default
        shown = tag('b', repr(value)) if differs else repr(value)
        default = repr(field.default) if field else None
        group = name.partition('.')[0] if '.' in name else 'run'
        groups.setdefault(group, []).append([name, shown, default, field.doc if field else None])
    parts = []
    for group in sorted(groups, key=lambda name: name != 'run'):
        parts += [
            tag('h3', group),
            table(['field', 'value', 'default', ''], groups[group], words=4),
        ]
    yield details(f'All {len(fields)} fields; bold: not the default', *parts)


# ------------------------------------------------------------------------------------- header


def header(each: Details, titled: bool = True) -> Html:
    """Returns the title, the status, the most important numbers and the missing parts."""
    run, found = each.run, each.evaluation
    lead = f'{run.config.get("model", {}).get("name", "")} on {run.config["data"]["name"]}, '
    lead += f'{run.config["duration"]}, seed {run.seed}'
    result = run.result or {}
    if isinstance(best := result.get('best'), dict):
        lead += f'; best checkpoint: step {best.get("step"):,}, by {best.get("metric")}'
    if stopped := result.get('stopped'):
        lead += f'; stopped: {stopped}'
    missing = [tag('p', sentence, class_='warning') for sentence in each.missing]
    return joined(
        tag('h1', run.name) if titled else None,
        tag('p', status(each), ' ', lead, class_='lead'),
        *missing,
        tag('div', *_tiles(each, found), class_='tiles'),
    )


def status(each: Details) -> Html:
    """Returns whether a run is finished, or how far it has come."""
    run = each.run
    if run.result:
        return tag('span', 'finished', class_='status done')
    step = max((row['step'] for row in run.metrics), default=0)
    if not step and each.stages:
        return tag('span', 'not trained', class_='status open')
    of = f' of {each.steps:,}' if each.steps else ''
    return tag('span', f'unfinished, step {step:,}{of}', class_='status open')


def _tiles(each: Details, found: Evaluation | None) -> Iterator[Html]:
    values: Mapping[str, Any] = found.values if found else each.run.result or {}
    sets = [key.removesuffix('/top1') for key in values if key.endswith('/top1')]
    if sets:
        name = found.weights if found else sets[-1]
        for metric, (title, unit) in METRICS.items():
            value = values.get(f'{name}/{metric}')
            if isinstance(value, (int, float)) and metric not in ('precision', 'recall'):
                mean = 'mean ' if metric in _MEANS else ''
                yield tile(_number(value, metric) + unit, f'{name} {mean}{title}')
    if each.stages:
        yield tile(f'{summarizing.total(each.stages)[0]:,}', 'parameters')
    record = (each.run.result or {}).get('time') or each.run.time
    if goodput.total(record):
        yield tile(duration(goodput.running(record)), 'time')
        yield tile(f'{100 * goodput.goodput(record):.1f} %', 'goodput')


def tile(value: str, name: str) -> Html:
    """Returns a number in large type, with its name below."""
    return tag('div', tag('b', value), tag('span', name), class_='tile')

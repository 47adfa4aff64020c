"""Tables of the architectures that the trainings of supernets derived, from their run folders."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cls.errors import UserError
from cls.run import metric_names

# Field of the result, or metric of the last step -> title of the column, digits.
NUMBERS = {
    'truth': ('truth', 2),
    'truth_best': ('best of the table', 2),
    'top1': ('top-1 of the supernet', 2),
    'skips': ('skips', 0),
    'none': ('none', 3),
    'alpha_entropy': ('entropy of alpha', 3),
    'cost': ('cost', 1),
    'seconds': ('seconds', 0),
}


def is_supernet(folder: Path) -> bool:
    """Whether a folder is a run of a search that trains a supernet."""
    file = folder / 'config.json'
    return file.is_file() and 'supernet' in json.loads(file.read_text()).get('search', {})


def read(folder: Path) -> dict[str, Any]:
    """Returns the result of a run.

    name, seed     of the run folder and its config
    genotype       the derived one
    truth          its value in the table, if there is one, and truth_best the best of the table
    top1           of DARTS's supernet, or of ProxylessNAS's most probable paths
    skips          number of skips among the edges of the genotype, over all kinds of cells
    none           mean weight of no connection at the end, in ProxylessNAS the number of empty
                   places
    alpha_entropy  the mean entropy of an edge's or a place's operations at the end, in nats
    cost           of the derived network, by the costs of the search
    seconds        in all
    steps          (step, entropy) pairs

    Raises UserError for an unfinished run.
    """
    if not (folder / 'result.json').is_file():
        raise UserError(f'{folder} has no result.json: expected a finished run.')
    config, result = (
        json.loads((folder / f'{name}.json').read_text()) for name in ('config', 'result')
    )
    steps = [line for line in logged(folder) if 'train/alpha_entropy' in line]
    last = {key.removeprefix('train/'): value for key, value in steps[-1].items()}
    skips = [value for key, value in last.items() if key.startswith('skips_')]
    return {
        'name': folder.name,
        'seed': config['seed'],
        'genotype': result['genotype'],
        **{name: result[name] for name in ('truth', 'truth_best', 'cost') if name in result},
        'top1': metric_names.figure(result, 'top1'),
        **({'skips': sum(skips)} if skips else {}),
        'none': last['none'],
        'alpha_entropy': last['alpha_entropy'],
        'seconds': result['seconds'],
        'steps': [(line['step'], line['train/alpha_entropy']) for line in steps],
    }


def logged(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl in a run folder."""
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def summed(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the table of runs, a header first, and of several runs a last line of means.

    The number after ± is the standard deviation of the runs. Genotypes are in the table only if
    they are text, as the names of a benchmark's cells.
    """
    is_text = all(isinstance(run['genotype'], str) for run in runs)
    columns = [name for name in NUMBERS if any(name in run for run in runs)]
    header = ['run', 'seed', *(['derived'] if is_text else [])]
    lines = [[*header, *(NUMBERS[name][0] for name in columns)]]
    for run in runs:
        cells = [f'{run[c]:.{NUMBERS[c][1]}f}' if c in run else '' for c in columns]
        lines.append([run['name'], str(run['seed']), *[run['genotype']] * is_text, *cells])
    if len(runs) > 1:
        means = (_mean(runs, column) if column != 'truth_best' else '' for column in columns)
        lines.append([f'mean of {len(runs)}', *[''] * (len(header) - 1), *means])
    return lines


def _mean(runs: Sequence[Mapping[str, Any]], column: str) -> str:
    values, digits = [run[column] for run in runs if column in run], max(NUMBERS[column][1], 1)
    mean = f'{statistics.fmean(values):.{digits}f}'
    return f'{mean} ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else mean

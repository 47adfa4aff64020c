"""The logged metrics of runs, with and without those that vary between repetitions."""

import json

TIMED = ('images_per_second', 'goodput', 'time/')  # names or their prefixes


def all_logged(workdir):
    """Returns the lines of metrics.jsonl, a list of dicts."""
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def logged(workdir):
    """Returns the lines of metrics.jsonl without speed and time."""
    return [
        {name: value for name, value in line.items() if not name.startswith(TIMED)}
        for line in all_logged(workdir)
    ]

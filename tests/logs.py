"""What runs logged, without what is of the machine and the moment."""

import json

TIMED = ('images_per_second', 'goodput', 'time/')  # also the beginnings of names


def all_logged(workdir):
    """What metrics.jsonl says: a list of dicts."""
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def logged(workdir):
    """The same but for speed and time."""
    return [
        {name: value for name, value in line.items() if not name.startswith(TIMED)}
        for line in all_logged(workdir)
    ]

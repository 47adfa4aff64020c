"""Test data for DPN: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

VARIANTS = ('dpn68', 'dpn92', 'dpn98', 'dpn131', 'dpn107')
TASKS = tuple(Task(f'timm:{name}') for name in (*VARIANTS, 'dpn68b'))
DEFAULT = ('dpn68',)
CSV = ('DPN',)
LISTED = {name: name for name in VARIANTS}
UNLISTED = {}

"""Test data for Xception: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TASKS = (Task('timm:legacy_xception', 48),)
DEFAULT = ('xception',)
CSV = ('Xception',)
LISTED = {'xception': 'xception'}
UNLISTED = {}

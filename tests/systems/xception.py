"""What tests know of Xception beside what is registered; see zoo.py."""

from golden.task import Task

TASKS = (Task('timm:legacy_xception', 48),)
DEFAULT = ('xception',)
CSV = ('Xception',)
LISTED = {'xception': 'xception'}
UNLISTED = {}

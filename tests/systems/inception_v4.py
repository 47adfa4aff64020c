"""What tests know of Inception-v4 beside what is registered; see zoo.py."""

from golden.task import Task

TASKS = (Task('timm:inception_v4', 96),)
DEFAULT = ('inception_v4',)
CSV = ('Inceptionv4',)
LISTED = {'inception_v4': 'inception_v4'}
UNLISTED = {}

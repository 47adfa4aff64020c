"""Test data for Inception-v4: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TASKS = (Task('timm:inception_v4', 96),)
DEFAULT = ('inception_v4',)
CSV = ('Inceptionv4',)
LISTED = {'inception_v4': 'inception_v4'}
UNLISTED = {}

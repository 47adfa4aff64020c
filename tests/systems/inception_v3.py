"""Test data for Inception-v3: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TASKS = (Task('timm:inception_v3', 80, fields={'aux_head': False}),)
DEFAULT = ('inception_v3',)
CSV = ('Inceptionv3',)
LISTED = {'inception_v3': 'inception_v3 (no aux)'}
UNLISTED = {
    'inception_v3 + aux (training)': 'the same network; tests/models/test_inception_v3.py counts it'
}

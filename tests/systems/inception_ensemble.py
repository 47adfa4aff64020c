"""Test data for the Inception ensemble: its listed row; see zoo.py."""

TASKS = ()
DEFAULT = ()
CSV = ('Inceptionv4 + Inception-ResNet-v2',)
LISTED = {'inception_ensemble': 'ensemble 1x inception_v4 + 3x inception_resnet_v2'}
UNLISTED = {}

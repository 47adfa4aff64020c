"""What tests know of the ensemble beside what is registered; see zoo.py. Its nets are others'."""

TASKS = ()
DEFAULT = ()
CSV = ('Inceptionv4 + Inception-ResNet-v2',)
LISTED = {'inception_ensemble': 'ensemble 1x inception_v4 + 3x inception_resnet_v2'}
UNLISTED = {}

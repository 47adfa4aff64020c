"""Test data for Inception-ResNet-v2: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

TASKS = (Task('timm:inception_resnet_v2', 80),)
DEFAULT = ('inception_resnet_v2',)
CSV = ('Inception-ResNet-v2',)
LISTED = {'inception_resnet_v2': 'inception_resnet_v2'}
UNLISTED = {
    'inception_resnet_v1 (companion)': "the reference's classifier is FaceNet's, not the paper's: "
    'a linear layer to 512 features and a norm precede it'
}

"""Files of cnn-finetune, recognized, or refused for a difference that their tensors do not show."""

import numpy as np
import pytest

from cls import weights
from cls.errors import UserError
from cls.weights import index

# The children of pretrainedmodels' Xception, in order, without the classifier.
XCEPTION = (
    *('conv1', 'bn1', 'relu', 'conv2', 'bn2'),
    *(f'block{number}' for number in range(1, 13)),
    *('conv3', 'bn3', 'conv4', 'bn4'),
)


def state(name, rename):
    shapes = {rename(key): shape for key, shape in index.tensors(name).all.items()}
    return {k: np.zeros([7 if n < 0 else n for n in shape], 'f') for k, shape in shapes.items()}


def of_xception(key):
    child, _, rest = key.partition('.')
    return f'_classifier.{rest}' if child == 'fc' else f'_features.{XCEPTION.index(child)}.{rest}'


def test_a_dual_path_network():
    tensors = state('dpn68', lambda key: f'_{key}')  # features.* and classifier.*
    match = weights.identify(tensors)
    assert (match.variant, match.family, match.num_classes) == ('dpn68', 'cnn-finetune', 7)


@pytest.mark.parametrize('call', [weights.identify, lambda x: weights.fit(x, 'xception')])
def test_xception_lacks_rectifiers(call):
    tensors = state('xception', of_xception)
    with pytest.raises(UserError, match=r"cnn-finetune's xception \(no rectifiers .*not here"):
        call(tensors)

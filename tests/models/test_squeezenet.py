"""SqueezeNet v1.1 with the authors' weights, on photographs (neither is in this repository)."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared import SHARED

from cls import models, weights
from cls.data.transforms import decode, resize

WEIGHTS = SHARED / 'realdata' / 'weights' / 'squeezenet_v1.1_ndf.npz'
PHOTOS = SHARED / 'realdata' / 'photos'
FIRES = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))  # in torchvision's list
NAMES = {'conv1': 'features.0', 'conv10': 'classifier.1', 'squeeze1x1': 'squeeze'}


def torch_name(name):
    """fire2/squeeze1x1/kernel -> features.3.squeeze.weight."""
    *modules, leaf = name.split('/')
    modules = [NAMES.get(m, m) for m in modules]
    if modules[0].startswith('fire'):
        modules[0] = f'features.{FIRES[int(modules[0].removeprefix("fire"))]}'
    return '.'.join((*modules, {'kernel': 'weight', 'bias': 'bias'}[leaf]))


def real_variables():
    with np.load(WEIGHTS) as file:
        tensors = {torch_name(name): file[name] for name in file.files}
    state_dict = {n: x.transpose(3, 2, 0, 1) if x.ndim == 4 else x for n, x in tensors.items()}
    return weights.from_torch(state_dict, 'squeezenet1_1')


def photographs(name):
    """As Caffe sees them: the whole image at 227x227, BGR, less the mean pixel; and labels."""
    with (PHOTOS / f'{name}.csv').open(newline='') as file:
        listed = list(csv.DictReader(file))
    pixels = [
        resize(decode((PHOTOS / name / row['file']).read_bytes(), 3), 227, 227) for row in listed
    ]
    images = np.stack(pixels)[..., ::-1].astype(np.float32) - np.float32([104, 117, 123])
    return images, np.array([int(row['label']) for row in listed])


@pytest.mark.skipif(
    not (WEIGHTS.exists() and PHOTOS.is_dir()), reason=f'no weights or photographs under {SHARED}'
)
@pytest.mark.sweep
@pytest.mark.parametrize(('name', 'top1', 'top5'), [('sample', 66.4, 88.8), ('nips17', 56.8, 82.0)])
def test_real_weights_reach_the_originals_accuracy(name, top1, top5):
    """The accuracies are torchvision's squeezenet1_1 with these weights on these images."""
    images, labels = photographs(name)
    model = models.create('squeezenet1_1')
    evaluate = jax.jit(model.apply)
    variables = real_variables()
    logits = np.concatenate(
        [evaluate(variables, jnp.asarray(part)) for part in np.split(images, len(images) // 25)]
    )
    first = np.argsort(-logits, axis=1)[:, :5] == labels[:, None]
    assert 100 * first[:, 0].mean() == pytest.approx(top1)
    assert 100 * first.any(axis=1).mean() == pytest.approx(top5)

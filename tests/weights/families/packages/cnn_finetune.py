"""Networks of cnn-finetune: the variant's name -> (builder, image size)."""

import contextlib
import functools

import make
import torch

make._declare_torchvision_operators()
import cnn_finetune.base  # noqa: E402


@contextlib.contextmanager
def _without_gradients(images):
    """In place of a function of the package that fails with newer releases of torch."""
    with torch.no_grad():
        yield images


cnn_finetune.base.no_grad_variable = _without_gradients


def network(name, size=None):
    return cnn_finetune.make_model(name, 10, pretrained=False, input_size=size and (size, size))


NETWORKS = {
    'shufflenetv2_0.5x': (functools.partial(network, 'shufflenet_v2_x0_5'), 64),
    'squeezenet1_1': (functools.partial(network, 'squeezenet1_1', 65), 65),
    'mobilenetv2_100': (functools.partial(network, 'mobilenet_v2'), 64),
    'resnet18': (functools.partial(network, 'resnet18'), 64),
    'densenet121': (functools.partial(network, 'densenet121'), 64),
    'seresnet50': (functools.partial(network, 'se_resnet50'), 64),
    'dpn68': (functools.partial(network, 'dpn68'), 96),
}

"""Computes logits of the networks of three packages with random weights, for tests/weights.

    python tests/golden/oracle.py

A line of standard input is a JSON object of `package`, `network`, `classes`, `size` and `file`. The
program writes the state dict (`tensor.NAME`), images (N, 3, H, W), logits in double precision and
`rounding`, their largest difference from single precision, to the file in NumPy's format. It prints
`done`, or the error. Needs PyTorch and the packages of requirements.txt, nothing of `cls`.

Kernels are drawn after He et al. 2015; scales, shifts and biases are drawn. The statistics of norms
are those of random images, changed at random: so no layer outweighs the rest, and each statistic
counts. Each norm is measured on the outputs of earlier norms after that change: with statistics of
unchanged layers the logits of torchvision's efficientnet_b5 had a deviation of 1,000, and a fifth
of it was rounding. Variances are multiplied by 4 at least, and images are coarse patches: both make
deep networks amplify rounding less, B5 by a factor of 8 and ResNet-152 by 7.
"""

import json
import sys

import numpy as np
import torch


def built(package: str, network: str, classes: int) -> torch.nn.Module:
    """Returns a network of a package, without weights."""
    if package == 'timm':
        import timm

        return timm.create_model(network, num_classes=classes)
    if package == 'torchvision':
        import torchvision

        more = {'init_weights': False} if network in ('googlenet', 'inception_v3') else {}
        return torchvision.models.get_model(network, weights=None, num_classes=classes, **more)
    from pytorchcv.model_provider import get_model

    module = get_model(network, pretrained=False)
    if isinstance(getattr(module.features, 'final_pool', None), torch.nn.AvgPool2d):
        module.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)  # the same for full-sized images
    for name, child in module.output.named_children():
        if isinstance(child, torch.nn.AvgPool2d):
            setattr(module.output, name, torch.nn.AdaptiveAvgPool2d(1))
    return module


@torch.no_grad()
def draw(module: torch.nn.Module, images: torch.Tensor) -> None:
    """Draws the weights of a network, and measures the statistics of its norms on images."""
    module.eval()
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
        else:
            parameter.uniform_(-0.3, 0.3)
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5)
            measure(norm)
    module(images)


def measure(norm: torch.nn.BatchNorm2d) -> None:
    """Makes the next call of a norm set its statistics, and compute with them."""

    def changed(norm: torch.nn.BatchNorm2d, inputs: tuple, _: torch.Tensor) -> torch.Tensor:
        hook.remove()
        norm.training = False
        deviation = norm.running_var.sqrt()
        norm.running_mean += deviation * torch.empty_like(deviation).uniform_(-0.2, 0.2)
        norm.running_var *= torch.empty_like(deviation).uniform_(4, 16)
        return norm(*inputs)

    norm.momentum, norm.training = 1.0, True
    hook = norm.register_forward_hook(changed)


def answer(request: dict) -> None:
    """Writes the file of a request."""
    torch.manual_seed(0)
    module = built(request['package'], request['network'], request['classes'])
    size = request['size']
    patches = torch.nn.functional.interpolate(2 * torch.randn(8, 3, 4, 4), size=size)
    images = patches + 0.3 * torch.randn(8, 3, size, size)
    draw(module, images)
    images = images[:2]
    arrays = {f'tensor.{name}': value.numpy() for name, value in module.state_dict().items()}
    arrays |= {'images': images.numpy()}
    with torch.no_grad():
        single, double = _logits(module(images)), _logits(module.double()(images.double()))
    arrays |= {'logits': double.numpy(), 'rounding': (single - double).abs().max().numpy()}
    np.savez(request['file'], **arrays)


def _logits(outputs: torch.Tensor | tuple) -> torch.Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs


if __name__ == '__main__':
    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            answer(json.loads(line))
        except Exception as error:  # the next request may succeed
            print(f'{error!r:.200}', flush=True)
        else:
            print('done', flush=True)

"""Writes explanations.npz: Grad-CAM and integrated gradients of three networks, in PyTorch.

  /work/py/torch/bin/python tests/inference/make_explanations.py

Needs torch and torchvision, nothing of cls. The weights are those of drawn.py.
"""

from pathlib import Path

import drawn
import numpy as np
import torch
import torchvision

FILE = Path(__file__).with_name('explanations.npz')
TARGET, STEPS = 3, 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# variant here -> (constructor, its layer with the output of the stage `layer`, layer)
NETWORKS = {
    'resnet18': ('resnet18', 'layer4', 'stage4'),
    'mobilenetv2_100': ('mobilenet_v2', 'features.17', 'stage7'),
    'squeezenet1_1': ('squeezenet1_1', 'features.12', 'stage3'),
}


def network(constructor):
    model = getattr(torchvision.models, constructor)(num_classes=1000).eval()
    state = {
        name: torch.from_numpy(np.asarray(drawn.tensor(name, tuple(value.shape))))
        for name, value in model.state_dict().items()
        if not name.endswith('num_batches_tracked')
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith('num_batches_tracked') for name in missing)
    return model.double()


def gradcam(model, images, layer):
    kept = {}

    def keep(module, inputs, output):
        kept['value'] = output.clone()
        kept['value'].retain_grad()
        return kept['value']

    handle = model.get_submodule(layer).register_forward_hook(keep)
    model(images)[0, TARGET].backward()
    handle.remove()
    value, gradient = kept['value'][0], kept['value'].grad[0]
    weights = gradient.mean((1, 2), keepdim=True)
    return torch.relu((weights * value).sum(0)).detach().numpy()


def integrated(model, images):
    total = torch.zeros_like(images)
    for step in range(STEPS):
        point = ((step + 0.5) / STEPS * images).detach().requires_grad_()
        model(point)[0, TARGET].backward()
        total += point.grad
    return (images * total / STEPS)[0].permute(1, 2, 0).detach().numpy()


def main():
    """Writes the file."""
    mean, std = (torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1) for x in (MEAN, STD))
    pixels = torch.from_numpy(drawn.image()).permute(2, 0, 1)[None].double() / 255
    images = (pixels - mean) / std
    arrays = {}
    for name, (constructor, layer, stage) in NETWORKS.items():
        model = network(constructor)
        arrays[f'{name}/logits'] = model(images)[0].detach().numpy()
        arrays[f'{name}/gradcam'] = gradcam(model, images, layer)
        arrays[f'{name}/integrated'] = integrated(model, images)
        arrays[f'{name}/layer'] = np.array(stage)
        print(name, arrays[f'{name}/logits'][:3], arrays[f'{name}/gradcam'].shape)
    np.savez_compressed(
        FILE, **{k: v.astype('f4') if v.dtype == 'f8' else v for k, v in arrays.items()}
    )


if __name__ == '__main__':
    main()

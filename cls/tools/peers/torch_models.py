"""Networks of plain_models.py, timm, torchvision and pytorchcv, by names like 'timm:resnet50'."""

import sys
from typing import Any

import plain_models  # next to this file, a script
import torch


def torchvision() -> Any:
    """Returns the package torchvision, even if it was compiled for another build of torch."""
    try:
        import torchvision as package
    except RuntimeError:  # declare the operators that it looks up
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
            del sys.modules[name]
        library = torch.library.Library('torchvision', 'DEF')
        for name in ('nms', 'qnms'):
            library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        import torchvision as package
    return package


def create(name: str) -> torch.nn.Module:
    """Returns a network with random weights. The name is 'plain:NAME', 'timm:NAME', ..."""
    package, _, variant = name.partition(':')
    if package == 'plain':
        return getattr(plain_models, variant)()
    if package == 'torchvision':
        return torchvision().models.get_model(variant, weights=None)
    torchvision()  # both others import it
    if package == 'timm':
        import timm

        dropped = {'drop_rate': 0.2, 'drop_path_rate': 0.2} if 'efficientnet' in variant else {}
        return timm.create_model(variant, **dropped)  # as the paper trains, and ours
    from pytorchcv.model_provider import get_model

    return get_model(variant)

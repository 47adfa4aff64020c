"""Test data for MnasNet: golden tasks, default variants and listed rows; see zoo.py."""

import functools

from golden.task import Task


def _without_versions(name):
    """Returns torchvision's network, without its check of the version in a state dict."""
    import torch
    import torchvision

    module = torchvision.models.get_model(name)
    module._load_from_state_dict = functools.partial(torch.nn.Module._load_from_state_dict, module)
    return module


TIMM = {
    'mnasnet_a1': 'semnasnet_100',
    **{f'mnasnet_a1_{width}': f'semnasnet_{width}' for width in ('140', '075', '050')},
    **{f'mnasnet_b1_{width}': f'mnasnet_{width}' for width in ('140', '075', '050')},
    'mnasnet_small': 'mnasnet_small',
}
TASKS = (
    *(
        Task(f'torchvision:{name}', build=functools.partial(_without_versions, name))
        for name in ('mnasnet1_0', 'mnasnet1_3')
    ),
    *(Task(f'timm:{name}') for name in TIMM.values()),
)
DEFAULT = ('mnasnet_small',)
CSV = ('MnasNet',)
LISTED = {**TIMM, 'mnasnet_a1': 'mnasnet_a1', 'mnasnet_b1': 'mnasnet_b1'}
UNLISTED = {
    'mnasnet_a2': 'its architecture is not published',
    'mnasnet_a3': 'its architecture is not published',
    'mnasnet92_se (arXiv v1)': 'its architecture is not published',
}

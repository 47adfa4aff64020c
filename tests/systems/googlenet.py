"""Test data for GoogLeNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task


def _without_heads():
    from torchvision.models import googlenet

    return googlenet(aux_logits=False, init_weights=False)


# Parameters are counted without auxiliary heads; test_googlenet.py reads torchvision's heads.
TASKS = (
    Task('torchvision:googlenet', fields={'aux_head': False}, build=_without_heads),
    Task('restated:googlenet', fields={'aux_head': False}),
)
DEFAULT = ('googlenet', 'googlenet_bn')
CSV = ('GoogLeNet',)
LISTED = {'googlenet': 'googlenet (paper: bias, LRN, no BN, 5x5)'}
UNLISTED = {
    'googlenet + 2 aux heads (training graph)': 'googlenet, whose parameters are counted without',
    **{
        f'googlenet BN (torchvision, {aux})': 'googlenet_bn; the row counts its heads'
        for aux in ('aux', 'no aux')
    },
}

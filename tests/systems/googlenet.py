"""What tests know of GoogLeNet beside what is registered; see zoo.py."""

from golden.task import Task


def _without_heads():
    from torchvision.models import googlenet

    return googlenet(aux_logits=False, init_weights=False)


# A variant's parameters are counted without heads; that theirs can be read, test_googlenet.py says.
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

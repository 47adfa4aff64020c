"""An independent reimplementation of NASNet's CIFAR networks, from the authors' code in TF-Slim.

AmoebaNet's reimplementation interprets the cells and layers, as its code derives from that code.
"""

import functools
from collections.abc import Callable

from restate import Net
from restated import amoebanet

NORMAL = ('sep5 sep3 sep5 sep3 avg3 none avg3 avg3 sep3 none', '0111011100', '1000000')
REDUCTION = ('sep5 sep7 max3 sep7 avg3 sep5 none avg3 sep3 max3', '0101013220', '1110000')


def nasnet_a(
    cells: int,
    filters: int,
    stem_filters: int = 0,
    num_classes: int = 10,
    aux_head: bool = False,
) -> Net:
    """Returns NASNet-A (1707.07012) for CIFAR; the stem has 3 F channels by default."""
    steps = amoebanet.separate(NORMAL, REDUCTION, cells, cifar=True)
    stem_filters = stem_filters or 3 * filters
    return amoebanet.net(steps, filters, stem_filters, True, num_classes, aux_head, eps=1e-5)


NETS: dict[str, Callable[..., Net]] = {
    'nasnet_a_6_768_cifar': functools.partial(nasnet_a, cells=6, filters=32),
    'nasnet_a_7_2304_cifar': functools.partial(nasnet_a, cells=7, filters=96),
}

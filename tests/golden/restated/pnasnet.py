"""An independent reimplementation of PNASNet-5, from the authors' code: pnasnet.py in TF-Slim.

AmoebaNet's reimplementation interprets the cells and layers, as both derive from the same code.
"""

import functools
from collections.abc import Callable

from restate import Net
from restated import amoebanet

CELL = ('sep5 max3 sep7 max3 sep5 sep3 sep3 max3 sep3 none', '1100004010', '1100000')


def pnasnet(
    cells: int,
    filters: int,
    stem_filters: int = 32,
    cifar: bool = False,
    num_classes: int = 1000,
    aux_head: bool = False,
) -> Net:
    """Returns PNASNet-5 (1712.00559); cells N and 2N of 3N have stride 2 and double the width."""
    steps = [] if cifar else [('cell_stem_0', CELL, 2, 0.25), ('cell_stem_1', CELL, 2, 0.5)]
    for i in range(3 * cells):
        stride = 2 if i in (cells, 2 * cells) else 1
        steps.append((f'cell_{i}', CELL, stride, 2 ** (i // cells)))
    eps = 1e-5 if cifar else 1e-3
    return amoebanet.net(steps, filters, stem_filters, cifar, num_classes, aux_head, eps)


def _cifar(filters: int = 48, **fields: int) -> Net:
    fields = {'cells': 3, 'stem_filters': 3 * filters, 'num_classes': 10, **fields}
    return pnasnet(filters=filters, cifar=True, **fields)


NETS: dict[str, Callable[..., Net]] = {
    'pnasnet5_mobile': functools.partial(pnasnet, cells=3, filters=54),
    'pnasnet5_cifar': _cifar,
}

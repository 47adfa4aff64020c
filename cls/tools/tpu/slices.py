"""TPU slices that this machine lacks: the limits of their chips, and devices to compile for.

parse('v5e:4x4')  # 16 chips, v5e
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from cls.errors import UserError, nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The limits of a chip.

    The source is https://docs.cloud.google.com/tpu/docs/v4, .../v5e, .../v5p and .../v6e, except
    for `memory` and `clock`. `memory` is the part of the 32, 16, 95 and 32 GB that libtpu gives a
    program, according to its error for a program that does not fit. `clock` is `flops` divided by
    the operations of a cycle: 2^17 for v5e, 2^18 for v4 and v5p, 2^19 for v6e. With these, large
    matrix products are near their peak in libtpu's own estimates.
    """

    flops: float  # bfloat16 operations a second; a multiply-add is two
    memory: float  # bytes of HBM
    bandwidth: float  # of HBM, bytes a second
    links: float  # bytes a second that all links to other chips send
    clock: float  # cycles a second
    accelerator: str  # the type of a slice, before the number of ...
    cores: int  # ... cores for each chip
    shapes: tuple[str, ...]  # of slices, the smallest first


CHIPS = {
    'v4': Chip(
        *(275e12, 30.75 * GIB, 1200e9, 300e9, 1.05e9, 'v4', 2),
        ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8'),
    ),
    'v5e': Chip(
        *(197e12, 15.75 * GIB, 819e9, 200e9, 1.5e9, 'v5litepod', 1),
        ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
    ),
    'v5p': Chip(
        *(459e12, 95.74 * GIB, 2765e9, 600e9, 1.75e9, 'v5p', 2),
        ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8'),
    ),
    'v6e': Chip(
        *(918e12, 31.25 * GIB, 1600e9, 400e9, 1.75e9, 'v6e', 1),
        ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
    ),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """One or more grids of linked chips of one kind."""

    chip: str
    shape: tuple[int, ...]
    count: int = 1  # slices, connected by the network of the data center

    @property
    def chips(self) -> int:
        """The number of chips in all slices."""
        return self.count * math.prod(self.shape)

    def __str__(self) -> str:
        name = f'{self.chip}:{"x".join(map(str, self.shape))}'
        return name if self.count == 1 else f'{self.count} x {name}'


def parse(text: str, count: int = 1) -> Slice:
    """Returns the slice for a text as 'v5e:4x4'. Raises UserError for other texts."""
    name, _, shape = text.partition(':')
    if name not in CHIPS:
        raise UserError(
            f'--topology is {text!r}: expected CHIP:SHAPE, as v5e:4x4, of a chip among '
            f'{", ".join(CHIPS)}.{nearest(name, CHIPS)}'
        )
    shapes = CHIPS[name].shapes
    axes = shapes[0].count('x')
    if not re.fullmatch(rf'[1-9]\d*(x[1-9]\d*){{{axes}}}', shape):
        raise UserError(
            f'--topology is {text!r}: expected the chips along {axes + 1} axes, as '
            f'{", ".join(f"{name}:{one}" for one in shapes[:3])}.'
        )
    if count < 1:
        raise UserError(f'--slices is {count}: expected 1 or more.')
    return Slice(name, tuple(map(int, shape.split('x'))), count)


def check_libtpu() -> None:
    """Raises UserError if libtpu, the TPU's compiler, is not installed."""
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(
            'compiling for TPUs needs libtpu, which is not installed: '
            'pip install -r launch/requirements-tpu.txt'
        )


def devices(wanted: Slice) -> list[Any]:
    """Returns devices that programs can be compiled for, but not run on; needs no TPU.

    To be called before JAX looks for devices, so that a TPU of this machine is not initialized.

    Raises UserError if libtpu is not installed, or has no such slice.
    """
    check_libtpu()
    jax.config.update('jax_platforms', 'cpu')
    chip = CHIPS[wanted.chip]
    in_one = math.prod(wanted.shape)
    os.environ.update(
        TPU_SKIP_MDS_QUERY='1',  # else libtpu queries a cloud's metadata server for minutes
        ALLOW_MULTIPLE_LIBTPU_LOAD='1',  # several programs may compile at once
        TPU_WORKER_HOSTNAMES='localhost',
        TPU_ACCELERATOR_TYPE=f'{chip.accelerator}-{in_one * chip.cores}',
    )
    options: dict[str, Any] = {'chips_per_host_bounds': (*(min(2, n) for n in wanted.shape[:2]), 1)}
    if chip.cores == 2:
        options['chip_config_name'] = 'megacore'  # both cores of a chip are one device
    try:
        topology = topologies.get_topology_desc(
            platform='tpu',
            topology_name=f'{wanted.chip}:{"x".join(map(str, wanted.shape))}',
            num_slices=wanted.count,
            **options,
        )
    except Exception as error:  # of any kind; libtpu's messages are long
        shapes = ', '.join(f'{wanted.chip}:{shape}' for shape in chip.shapes)
        raise UserError(
            f'libtpu cannot make the slice {wanted} ({str(error).strip().splitlines()[0]}): '
            f'choose one of {shapes}.'
        ) from error
    return list(topology.devices)

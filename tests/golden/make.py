"""Writes the golden files: what reference implementations compute under keyed weights.

    python tests/golden/make.py                  # every row
    python tests/golden/make.py 'torchvision:*'  # the rows that match a shell pattern

Needs PyTorch and the packages of requirements.txt, and nothing of `cls`. A row's gain, the
variance of its weights, is the smallest of GAINS under which the images' logits differ clearly:
nets differ in how they let a signal grow. One that drowns in its biases tests nothing, and one
that grows through a hundred layers magnifies float32's rounding as it magnifies the images'
difference (resnet152: to 1e-5 of the spread with gain 0.9, in PyTorch as in JAX; 4e-5 with 1.0).
"""

import dataclasses
import fnmatch
import importlib.metadata
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import keyed
import numpy as np
import restated
import restated_amoebanet
import rows
import torch

GAINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0, 4.0, 6.0)
CONTRAST = 0.4  # the difference between two images' logits, in units of the logits' spread


@dataclasses.dataclass(frozen=True)
class Reference:
    """A net as a function: tensors' shapes, trained parameters, (tensors, images) -> logits."""

    tensors: dict[str, tuple[int, ...]]
    params: int
    apply: Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor]
    made_with: str


@dataclasses.dataclass(frozen=True)
class Task:
    """A row to be made: `package:constructor`, on `count` images of `size` pixels.

    `fields` make a net smaller than the registered variant; only restated nets take them.
    """

    reference: str
    size: int = 64
    count: int = 2
    channels: int = 3
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Every row whose variant's `reference` names it, and every net that is restated. Small images:
# enough to tell nets apart. AmoebaNet's are of odd and even height and of odd and even widths.
TASKS = (
    *(Task(f'torchvision:resnet{depth}') for depth in (18, 34, 50, 101, 152)),
    *(Task(f'pytorchcv:resnet{depth}') for depth in (50, 101, 152)),
    *(Task(f'restated:{name}', size=32) for name in restated.NETS),  # resnet*_cifar
    *(
        Task(f'restated:amoebanet_{name}', size, fields={**fields, 'aux_head': False})
        for name, size, fields in (
            ('a_n6_f190', 64, {'cells': 1, 'filters': 18}),
            ('b_n6_f190', 72, {'cells': 1, 'filters': 22}),
            ('c_n6_f228', 64, {'cells': 1, 'filters': 18}),
            ('d_n6_f256', 72, {'cells': 2, 'filters': 24}),
            ('a_n6_f36_cifar', 32, {'cells': 1, 'filters': 18, 'stem_filters': 54}),
            ('b_n6_f36_cifar', 32, {'cells': 1, 'filters': 17, 'stem_filters': 51}),
        )
    ),
)


def from_torchvision(name: str) -> Reference:
    _declare_torchvision_operators()
    import torchvision

    return _from_module('torchvision', torchvision.models.get_model(name, weights=None))


def from_pytorchcv(name: str) -> Reference:
    _declare_torchvision_operators()
    from pytorchcv.model_provider import get_model

    module = get_model(name, pretrained=False)
    if isinstance(getattr(module.features, 'final_pool', None), torch.nn.AvgPool2d):
        module.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)  # the same at the full size
    return _from_module('pytorchcv', module)


def from_timm(name: str) -> Reference:
    _declare_torchvision_operators()
    import timm

    return _from_module('timm', timm.create_model(name, pretrained=False))


def from_restated(name: str, **fields: Any) -> Reference:
    """As the others; `params` are still those of the net without `fields`."""
    module = next(m for m in (restated, restated_amoebanet) if name in m.NETS)
    registered, _ = module.NETS[name]()
    params = sum(math.prod(s) for n, s in registered.items() if '.running_' not in n)
    tensors, apply = module.NETS[name](**fields)
    return Reference(tensors, params, apply, f'tests/golden/{module.__name__}.py')


PACKAGES = {
    'torchvision': from_torchvision,
    'pytorchcv': from_pytorchcv,
    'timm': from_timm,
    'restated': from_restated,
}


def _declare_torchvision_operators() -> None:
    """Lets torchvision be imported where its compiled part does not load (a CPU build of torch).

    It attaches to two operators of that part when imported; no classifier uses them. Done only
    once and only if they are unknown: `torch.library` objects undeclare theirs when collected.
    """
    global _library
    if 'torchvision' in sys.modules:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
            del sys.modules[name]
        _library = torch.library.Library('torchvision', 'DEF')
        for name in ('nms', 'qnms'):
            _library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')


_library: torch.library.Library | None = None


def _from_module(package: str, module: torch.nn.Module) -> Reference:
    """Wraps a module in evaluation mode and float64."""
    module = module.double().eval()
    tensors = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    params = sum(parameter.numel() for parameter in module.parameters())

    def apply(state: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        module.load_state_dict(state, strict=True)
        return module(images)

    return Reference(tensors, params, apply, f'{package} {importlib.metadata.version(package)}')


def logits(reference: Reference, task: Task, gain: float) -> np.ndarray:
    """Returns the reference's (count, classes) logits, computed in float64."""
    state = {
        name: torch.from_numpy(value).to(torch.float64 if value.dtype == np.float32 else None)
        for name, value in keyed.state_dict(reference.tensors, gain).items()
    }
    images = keyed.images(task.count, task.size, task.channels).transpose(0, 3, 1, 2)
    with torch.no_grad():
        return reference.apply(state, torch.from_numpy(images.copy()).double()).numpy()


def contrast(values: np.ndarray) -> float:
    """Returns how much the first two images' logits differ, relative to one image's spread."""
    return float((values[0] - values[1]).std() / values.std(axis=1).mean())


def make_row(task: Task) -> rows.Row:
    """Computes a row; raises RuntimeError if no gain makes the images' logits differ clearly."""
    package, name = task.reference.split(':')
    reference = PACKAGES[package](name, **task.fields)
    for gain in GAINS:
        values = logits(reference, task, gain)
        if contrast(values) >= CONTRAST and np.isfinite(values).all():
            print(
                f'{task.reference}: {reference.params:,} parameters, gain {gain}, '
                f'spread {values.std(axis=1).mean():.3g}, contrast {contrast(values):.2f}'
            )
            return rows.Row(
                tensors=reference.tensors,
                params=reference.params,
                gain=gain,
                count=task.count,
                size=task.size,
                channels=task.channels,
                made_with=f'{reference.made_with}, torch {torch.__version__}',
                logits=values.astype(np.float32),
                fields=dict(task.fields),
            )
    raise RuntimeError(f'{task.reference}: the logits do not differ under any gain')


def main(pattern: str = '*') -> None:
    tasks = [task for task in TASKS if fnmatch.fnmatchcase(task.reference, pattern)]
    if not tasks:
        sys.exit(f'no row matches {pattern!r}; there are {", ".join(t.reference for t in TASKS)}')
    for package in dict.fromkeys(task.reference.split(':')[0] for task in tasks):
        listed = {t.reference.split(':')[1] for t in TASKS if t.reference.startswith(f'{package}:')}
        before = rows.read(package)
        after = {name: row for name, row in before.items() if name in listed}
        for task in tasks:
            if task.reference.startswith(f'{package}:'):
                after[task.reference.split(':')[1]] = make_row(task)
        if before.keys() == after.keys() and all(rows.same(before[n], after[n]) for n in after):
            print(f'{package}: unchanged')
            continue
        path = rows.write(package, after)
        print(f'{path}: {len(after)} rows, {path.stat().st_size:,} bytes')


if __name__ == '__main__':
    main(*sys.argv[1:])

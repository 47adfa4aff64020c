"""Writes the golden files: the outputs of reference implementations with keyed weights.

    python tests/golden/make.py resnet                  # the rows of tests/systems/resnet.py
    python tests/golden/make.py resnet 'torchvision:*'  # those that match a shell pattern

Needs PyTorch and the packages of requirements.txt, and nothing of `cls`. A row's gain, the variance
of its weights, is the smallest of GAINS with clearly different logits of the images, as networks
amplify a signal differently. A network dominated by its biases tests nothing, and one that
amplifies the signal over a hundred layers amplifies float32's rounding like the images' difference
(resnet152: to 1e-5 of the spread with gain 0.9, in PyTorch as in JAX; 4e-5 with 1.0).
"""

import dataclasses
import fnmatch
import functools
import importlib
import importlib.metadata
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import keyed
import numpy as np
import rows
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
from golden.task import Task  # noqa: E402

GAINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0, 4.0, 6.0)
BUFFERS = r'\.(running_mean|running_var|index|mask)$'  # untrained tensors
CONTRAST = 0.4  # least difference between two images' logits, in units of the logits' spread


@dataclasses.dataclass(frozen=True)
class Reference:
    """A network as a function: shapes, trained parameters, (tensors, images) -> logits."""

    tensors: dict[str, tuple[int, ...]]
    params: int
    apply: Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor]
    made_with: str


def from_torchvision(name: str) -> torch.nn.Module:
    import torchvision

    return torchvision.models.get_model(name, weights=None)


def from_pytorchcv(name: str) -> torch.nn.Module:
    from pytorchcv.model_provider import get_model

    module = get_model(name, pretrained=False)
    if isinstance(getattr(module.features, 'final_pool', None), torch.nn.AvgPool2d):
        module.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)  # the same for full-sized images
    return module


def from_timm(name: str) -> torch.nn.Module:
    import timm

    return timm.create_model(name, pretrained=False)


def from_pretrainedmodels(name: str) -> torch.nn.Module:
    import pretrainedmodels

    return pretrainedmodels.__dict__[name](num_classes=1000, pretrained=None)


PACKAGES = {
    'torchvision': from_torchvision,
    'pytorchcv': from_pytorchcv,
    'timm': from_timm,
    'pretrainedmodels': from_pretrainedmodels,
}


def restated(system: str, task: Task) -> Reference:
    """Returns a network of restated/<system>.py; `params` counts it without `fields`."""
    module = importlib.import_module(f'restated.{system}')
    build = module.NETS[task.reference.split(':')[1]]
    registered, _ = build()
    params = sum(math.prod(s) for n, s in registered.items() if not re.search(BUFFERS, n))
    tensors, apply = build(**task.fields)
    return Reference(tensors, params, apply, f'tests/golden/restated/{system}.py')


def packaged(task: Task) -> Reference:
    """Returns a package's module, in evaluation mode and float64."""
    package, name = task.reference.split(':')
    _declare_torchvision_operators()
    build = task.build or functools.partial(PACKAGES[package], name)
    with torch.device('meta'):  # the network without `fields` may be too large
        params = sum(parameter.numel() for parameter in build().parameters())
    module = build(**task.fields).double().eval()
    tensors = {name: tuple(value.shape) for name, value in module.state_dict().items()}

    def apply(state: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        module.to(images.dtype).load_state_dict(state, strict=True)
        return module(images)

    return Reference(tensors, params, apply, f'{package} {importlib.metadata.version(package)}')


def _declare_torchvision_operators() -> None:
    """Makes torchvision importable without its compiled part (as with a CPU build of torch).

    Its import needs two operators of that part; no classifier uses them. This declares them once
    and only if they are unknown: `torch.library` objects drop their declarations on collection.
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


def logits(
    reference: Reference, task: Task, state: Mapping[str, np.ndarray], dtype: torch.dtype
) -> np.ndarray:
    """Returns the reference's (count, classes) logits, computed in `dtype`."""
    tensors = {
        name: torch.from_numpy(value).to(dtype if value.dtype == np.float32 else None)
        for name, value in state.items()
    }
    images = keyed.images(task.count, task.size, task.channels).transpose(0, 3, 1, 2)
    with torch.no_grad():
        return reference.apply(tensors, torch.from_numpy(images.copy()).to(dtype)).numpy()


def scaled(state: Mapping[str, np.ndarray], gain: float) -> dict[str, np.ndarray]:
    """Returns the weights of gain 1 scaled to another gain, up to rounding."""
    factor = np.float32(math.sqrt(gain))
    return {
        name: x * factor if x.ndim > 1 and x.dtype == np.float32 else x for name, x in state.items()
    }


def contrast(values: np.ndarray) -> float:
    """Returns the difference of the first two images' logits, relative to one image's spread."""
    return float((values[0] - values[1]).std() / values.std(axis=1).mean())


def make_row(system: str, task: Task) -> rows.Row:
    """Returns a new row; raises RuntimeError if the logits do not differ clearly for any gain."""
    is_restated = task.reference.startswith('restated:')
    reference = restated(system, task) if is_restated else packaged(task)
    plain = keyed.state_dict(reference.tensors)
    for gain in GAINS:  # trials in float32 take half the time
        values = logits(reference, task, scaled(plain, gain), torch.float32)
        if contrast(values) >= CONTRAST and np.isfinite(values).all():
            state = keyed.state_dict(reference.tensors, gain)
            values = logits(reference, task, state, torch.float64)
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


def main(system: str, pattern: str = '*') -> None:
    """Writes the rows of a system whose references match a shell pattern."""
    tasks = importlib.import_module(f'systems.{system}').TASKS
    before = rows.read(system)
    after = {task.reference: before.get(task.reference) for task in tasks}
    for task in tasks:
        if fnmatch.fnmatchcase(task.reference, pattern):
            after[task.reference] = make_row(system, task)
    missing = [name for name, row in after.items() if row is None]
    if missing:
        sys.exit(f'{system}: not made yet: {", ".join(missing)}')
    if before.keys() == after.keys() and all(rows.same(before[n], after[n]) for n in after):
        print(f'{system}: unchanged')
        return
    path = rows.write(system, after)
    print(f'{path}: {len(after)} rows, {path.stat().st_size:,} bytes')


if __name__ == '__main__':
    main(*sys.argv[1:])

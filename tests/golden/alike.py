"""Writes alike.json: networks of three packages with equal tensors and different numbers.

    python tests/golden/alike.py

Needs PyTorch and the packages of requirements.txt, and nothing of `cls`. Networks are those of the
model files in published.py, published or not. A group has equal names and shapes of tensors. With
the same random weights some of its networks compute different numbers: the file is a list of
groups, each a list of classes of equal logits, each a list of `package:network`. Groups of one class are
left out.
"""

import collections
import json
from collections.abc import Iterator
from pathlib import Path

import oracle
import published
import torch

OUTPUT = Path(__file__).with_name('alike.json')
LARGEST = 300e6  # parameters
SIZE = 107


def networks() -> Iterator[tuple[str, str]]:
    """Yields (package, network) of all networks in the files of the systems."""
    import timm
    from pytorchcv import model_provider
    from torchvision import models

    for file in published.TIMM:
        yield from (('timm', name) for name in timm.list_models(module=file))
    for name in models.list_models(module=models):
        if models.get_model_builder(name).__module__.split('.')[-1] in published.TORCHVISION:
            yield 'torchvision', name
    for name, builder in model_provider._models.items():
        if builder.__module__.split('.')[-1] in published.PYTORCHCV:
            yield 'pytorchcv', name


def made(package: str, network: str) -> torch.nn.Module:
    """Returns a network as its package makes it."""
    if package == 'pytorchcv':  # with its own number of classes
        return oracle.built(package, network, 0)
    return oracle.built(package, network, 1000)


def classes(group: list[tuple[str, str]]) -> list[list[str]]:
    """Returns the networks of a group in classes of equal logits."""
    torch.manual_seed(0)
    first = made(*group[0])
    images = torch.randn(4, 3, SIZE, SIZE)
    oracle.draw(first, images)
    result: list[tuple[torch.Tensor, list[str]]] = []
    for package, network in group:
        module = made(package, network)
        module.load_state_dict(first.state_dict(), strict=True)
        with torch.no_grad():
            logits = module.eval()(images)
        logits = logits[0] if isinstance(logits, tuple) else logits
        for other, names in result:
            if (other - logits).abs().max() < 1e-5 * other.std():
                names.append(f'{package}:{network}')
                break
        else:
            result.append((logits, [f'{package}:{network}']))
    return [names for _, names in result]


def main() -> None:
    """Writes the file."""
    groups = collections.defaultdict(list)
    for package, network in networks():
        with torch.device('meta'):
            module = made(package, network)
        state = module.state_dict()
        if sum(value.numel() for value in state.values()) <= LARGEST:
            groups[tuple((n, tuple(v.shape)) for n, v in state.items())].append((package, network))
    several = [classes(group) for group in groups.values() if len(group) > 1]
    different = [group for group in several if len(group) > 1]
    text = ',\n'.join(f' {json.dumps(group)}' for group in different)
    OUTPUT.write_text(f'[\n{text}\n]\n')
    print(f'{len(several)} groups, {len(different)} of different numbers')


if __name__ == '__main__':
    main()

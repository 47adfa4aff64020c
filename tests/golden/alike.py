"""Writes alike.json: published networks with equal tensors and different numbers.

    python tests/golden/alike.py

Needs PyTorch and the packages of requirements.txt, and nothing of `cls`. Networks are those of
published.json.xz, without pytorchcv's for other data sets. A group has equal names and shapes of
tensors, without the number of classes. With the same random weights some of its networks compute
different numbers: the file is a list of groups, each a list of classes of equal logits, each a list
of `package:network`. Groups of one class are left out, and networks of more than LARGEST
parameters, which have the code of smaller ones.
"""

import collections
import json
import lzma
import math
import re
from pathlib import Path

import oracle
import published
import torch

OUTPUT = Path(__file__).with_name('alike.json')
LARGEST = 100e6  # parameters
SIZE = 64  # of the images: TensorFlow pads even sizes unlike PyTorch
OTHER_DATA = r'.*_(cub|cifar100|svhn)'


def groups() -> list[list[tuple[str, str]]]:
    """Returns the networks (package, network) of each group with several names."""
    table = json.loads(lzma.decompress(published.OUTPUT.read_bytes()))
    alike: dict[tuple, dict] = collections.defaultdict(dict)
    for package, network, _, _, number, classes in table['entries']:
        flat = table['networks'][number]
        shapes = [tuple(table['forms'][form][1]) for form in flat[1::2]]
        if sum(map(math.prod, shapes)) > LARGEST or re.fullmatch(OTHER_DATA, network):
            continue
        bodies = (tuple(0 if size == classes else size for size in shape) for shape in shapes)
        key = tuple(sorted(zip(flat[::2], bodies, strict=True)))
        alike[key][package, network] = None
    return [list(each) for each in alike.values() if len({network for _, network in each}) > 1]


def classes(group: list[tuple[str, str]]) -> list[list[str]]:
    """Returns the networks of a group in classes of equal logits."""
    torch.manual_seed(0)
    first = oracle.built(*group[0], 1000)
    images = torch.randn(2, 3, SIZE, SIZE)
    oracle.draw(first, images)
    result: list[tuple[torch.Tensor, list[str]]] = []
    for package, network in group:
        module = oracle.built(package, network, 1000)
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
    different = []
    for group in groups():
        several = classes(group)
        print(several, flush=True)
        different += [several] if len(several) > 1 else []
    text = ',\n'.join(f' {json.dumps(group)}' for group in different)
    OUTPUT.write_text(f'[\n{text}\n]\n')
    print(f'{len(different)} groups of different numbers')


if __name__ == '__main__':
    main()

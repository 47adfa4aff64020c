"""An independent reimplementation of PolyNet, with modules and sizes not in the release."""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm

# Paths of an Inception block as 'channels:window', and the unpadded paths with stride 2.
INCEPTION = {
    'a': ('32:1x1 48:3x3 64:3x3', '32:1x1 32:3x3', '32:1x1'),
    'b': ('128:1x1 160:1x7 192:7x1', '192:1x1'),
    'c': ('192:1x1 224:1x3 256:3x1', '192:1x1'),
}
HALVING = {
    'a': ('256:1x1 256:3x3 384:3x3', '384:3x3'),
    'b': ('256:1x1 256:3x3 256:3x3', '256:1x1 256:3x3', '256:1x1 384:3x3'),
}


def polynet(
    stage_a: Sequence[str],
    stage_b: Sequence[str],
    stage_c: Sequence[str],
    width: float = 1.0,
    path_drop_rate: float = 0.0,
) -> Net:
    """Returns PolyNet (1611.05725) in evaluation; terms of module k of n: 1 - rate k / (n - 1)."""

    def layer(weight: Weight, name: str, x: torch.Tensor, spec: str, stride=1, pad=True, act=True):
        out, window = spec.split(':')
        height, length = (int(side) for side in window.split('x'))
        kernel = weight(f'{name}.conv.weight', int(int(out) * width), x.shape[1], height, length)
        padding = (height // 2, length // 2) if pad else 0
        x = F.conv2d(x, kernel, stride=stride, padding=padding)
        x = norm(weight, f'{name}.bn', x)
        return x.relu() if act else x

    def merge(weight: Weight, name: str, x: torch.Tensor, channels: int) -> torch.Tensor:
        x = F.conv2d(x, weight(f'{name}.conv.weight', channels, x.shape[1], 1, 1))
        return norm(weight, f'{name}.bn', x)

    def apart(weight: Weight, name: str, stage: str, i: int, x: torch.Tensor) -> torch.Tensor:
        """Returns the output of block i of those without shared weights."""
        outputs = []
        for p, path in enumerate(INCEPTION[stage]):
            y = x
            for j, spec in enumerate(path.split()):
                y = layer(weight, f'{name}.blocks.{i}.path{p}.{j}', y, spec)
            outputs.append(y)
        return merge(weight, f'{name}.blocks.{i}.conv2d', torch.cat(outputs, 1), x.shape[1])

    def recurrent(weight: Weight, name: str, stage: str, order: int, x: torch.Tensor):
        """Returns F x, F F x, ...; all blocks share the kernels of the first, but no norms."""
        kernels, terms = {}, []
        channels = x.shape[1]
        for i in range(order):
            outputs = []
            for p, path in enumerate(INCEPTION[stage]):
                y = x
                for j, spec in enumerate(path.split()):
                    out, window = spec.split(':')
                    size = tuple(int(side) for side in window.split('x'))
                    key = f'{name}.path{p}.{j}'
                    if key not in kernels:
                        shape = (int(int(out) * width), y.shape[1], *size)
                        kernels[key] = weight(f'{key}.conv.weight', *shape)
                    y = F.conv2d(y, kernels[key], padding=(size[0] // 2, size[1] // 2))
                    y = norm(weight, f'{key}.bn_blocks.{i}', y).relu()
                outputs.append(y)
            term = merge(weight, f'{name}.conv2d_blocks.{i}', torch.cat(outputs, 1), channels)
            terms.append(term)
            x = term.relu()
        return terms

    def module(weight: Weight, name: str, stage: str, kind: str, scale: float, x: torch.Tensor):
        order = int(kind.replace('-way', '').replace('mpoly-', '').replace('poly-', ''))
        if kind.startswith('poly'):
            terms = recurrent(weight, name, stage, order, x)
        elif kind.startswith('mpoly'):
            terms, y = [], x
            for i in range(order):
                terms.append(apart(weight, name, stage, i, y))
                y = terms[-1].relu()
        else:
            terms = [apart(weight, name, stage, i, x) for i in range(order)]
        return (x + scale * torch.stack(terms).sum(0)).relu()

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        make = functools.partial(layer, weight)
        halve = {'stride': 2, 'pad': False}
        x = make('stem.conv1.1', make('stem.conv1.0', x, '32:3x3', **halve), '32:3x3', pad=False)
        x = make('stem.conv1.2', x, '64:3x3')
        x = torch.cat([F.max_pool2d(x, 3, 2), make('stem.conv1_branch', x, '96:3x3', **halve)], 1)
        long = short = x
        short = make('stem.conv2_short.0', short, '64:1x1')
        short = make('stem.conv2_short.1', short, '96:3x3', pad=False)
        for i, spec in enumerate(('64:1x1', '64:7x1', '64:1x7')):
            long = make(f'stem.conv2_long.{i}', long, spec)
        long = make('stem.conv2_long.3', long, '96:3x3', pad=False)
        x = torch.cat([short, long], 1)
        x = torch.cat([F.max_pool2d(x, 3, 2), make('stem.conv2_branch', x, '192:3x3', **halve)], 1)

        k, n = 0, len(stage_a) + len(stage_b) + len(stage_c)
        for stage, kinds in zip('abc', (stage_a, stage_b, stage_c), strict=True):
            for i, kind in enumerate(kinds):
                scale = 1 - path_drop_rate * k / (n - 1)
                x = module(weight, f'stage_{stage}.{i}', stage, kind, scale, x)
                k += 1
            if stage == 'c':
                break
            outputs = []
            for p, path in enumerate(HALVING[stage]):
                y, specs = x, path.split()
                for j, spec in enumerate(specs):
                    how = halve if j + 1 == len(specs) else {}
                    y = make(f'reduction_{stage}.path{p}.{j}', y, spec, **how)
                outputs.append(y)
            x = torch.cat([*outputs, F.max_pool2d(x, 3, 2)], 1)
        kernel = weight('last_linear.weight', 1000, x.shape[1])
        return F.linear(x.mean((2, 3)), kernel, weight('last_linear.bias', 1000))

    return declared(forward, size=107)


NETS: dict[str, Callable[..., Net]] = {
    'polynet_mixed_b': functools.partial(
        polynet,
        stage_a=('1-way',) * 6,
        stage_b=('3-way', 'mpoly-3', 'poly-3') * 4,
        stage_c=('1-way',) * 6,
    ),
}

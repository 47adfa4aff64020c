"""An independent reimplementation of IGCV3's other widths, by the authors' MXNet code."""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm

# Expansion, width, blocks and stride of each run.
RUNS = (
    (1, 16, 1, 1),
    (6, 24, 4, 2),
    (6, 32, 6, 2),
    (6, 64, 8, 2),
    (6, 96, 6, 1),
    (6, 160, 6, 2),
    (6, 320, 1, 1),
)


def even(count: int) -> int:
    return count + count % 2


def igcv3(multiplier: float, stage_sizes: Sequence[int] | None = None) -> Net:
    """Returns IGCV3-D (1806.00178); stage_sizes replaces the numbers of blocks.

    The first block of a run applies the multiplier a second time to the width that it expands; if
    the result is odd, it expands the width plus 1 (their code). Further blocks expand their input.
    """

    def conv(
        weight: Weight, name: str, bn: str, x: torch.Tensor, out: int, k=1, stride=1, groups=1
    ) -> torch.Tensor:
        kernel = weight(f'{name}.weight', out, x.shape[1] // groups, k, k)
        x = F.conv2d(x, kernel, stride=stride, padding=k // 2, groups=groups)
        return norm(weight, bn, x)

    def block(
        weight: Weight, name: str, x: torch.Tensor, inner: int, out: int, stride: int
    ) -> torch.Tensor:
        x = conv(weight, f'{name}.conv_pw', f'{name}.bn1', x, inner, groups=2)
        x = torch.stack(x.chunk(2, 1), 2).flatten(1, 2)
        x = conv(weight, f'{name}.conv_dw', f'{name}.bn2', x, inner, 3, stride, inner)
        return conv(weight, f'{name}.conv_pwl', f'{name}.bn3', x.clamp(0, 6), out, groups=2)

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        stem = even(round(32 * multiplier))
        x = conv(weight, 'conv_stem', 'bn1', x, stem, 3, 2).clamp(0, 6)
        base, stage, place = stem, -1, 0
        for i, (expansion, width, size, stride) in enumerate(RUNS):
            out = even(round(width * multiplier))
            if i == 0 or stride == 2:
                stage, place = stage + 1, 0
            for j in range(stage_sizes[i] if stage_sizes else size):
                inner = expansion * (base if j == 0 else out)
                y = block(weight, f'blocks.{stage}.{place}', x, inner, out, stride if j == 0 else 1)
                x, place = y if j == 0 else x + y, place + 1
            again = round(out * multiplier)
            base = again if again % 2 == 0 else out + 1
        head = int(1280 * multiplier) + 1 if multiplier > 1 else 1280
        x = conv(weight, 'conv_head', 'bn2', x, head).clamp(0, 6).mean((2, 3))
        return F.linear(x, weight('classifier.weight', 1000, head), weight('classifier.bias', 1000))

    return declared(forward)


NETS = {
    'igcv3_0_7': functools.partial(igcv3, 0.7),
    'igcv3_1_4': functools.partial(igcv3, 1.4),
}

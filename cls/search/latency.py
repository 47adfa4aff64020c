"""The cost of networks of inverted residuals: the sum of the costs of their layers.

A table has the latency of each layer, measured on a device. ProxylessNAS's authors publish theirs,
of a Pixel 1 at 224 pixels, as YAML (github.com/han-cai/files, proxylessnas/mobile_trim.yaml): an
entry for each layer by its shapes, with the mean in milliseconds.

  expanded_conv-input:56x56x24-output:28x28x40-expand:3-kernel:5-stride:2-idskip:0:
    mean: 5.7

Without a table, multiply-adds take its place.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from cls.errors import UserError, nearest
from cls.nn.inverted import Run, round_channels


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer: the stem (Conv), a block (expanded_conv), the head (Conv_1), the logits (Logits)."""

    kind: str
    size: int  # height and width of the input
    channels: int  # of the input
    features: int  # channels of the output
    window: int = 1
    strides: int = 1
    expansion: float = 1.0
    skip: bool = False

    @property
    def out(self) -> int:
        """Height and width of the output."""
        return -(-self.size // self.strides)

    @property
    def key(self) -> str:
        """The name of the layer in a table."""
        shape = f'{self.kind}-input:{self.size}x{self.size}x{self.channels}-output:'
        if self.kind == 'Logits':
            return f'{shape}{self.features}'
        shape += f'{self.out}x{self.out}x{self.features}'
        if self.kind != 'expanded_conv':
            return shape
        return (
            f'{shape}-expand:{self.expansion:g}-kernel:{self.window}-stride:{self.strides}'
            f'-idskip:{int(self.skip)}'
        )


Cost = Callable[[Layer], float]


def layers(
    runs: Sequence[Run], size: int, channels: int, stem: int, head: int, classes: int
) -> list[Layer]:
    """Returns the layers of a network of cls.models.proxylessnas, from the stem to the logits.

    Args:
      runs: its blocks, each a run of one.
      size: height and width of the images.
      channels: channels of the images.
      stem: channels of the stem.
      head: channels of the head.
      classes: number of logits.
    """
    rows = [Layer('Conv', size, channels, stem, 3, 2)]
    for run in runs:
        size, channels = rows[-1].out, rows[-1].features
        skip = run.skip and run.strides == 1 and channels == run.features
        shape = (run.features, run.window, run.strides, run.expansion, skip)
        rows.append(Layer('expanded_conv', size, channels, *shape))
    size, channels = rows[-1].out, rows[-1].features
    return [*rows, Layer('Conv_1', size, channels, head), Layer('Logits', size, head, classes)]


def measured(file: Path) -> Cost:
    """Returns the costs of a table, in its units, as a function of the layer.

    Raises UserError for a file that is not such a table; the function does so for a layer without
    an entry.
    """
    import yaml  # of the extra `search`; without a table a search does not need it

    try:
        entries = yaml.safe_load(file.read_text())
        means = {key: float(entry['mean']) for key, entry in entries.items()}
    except OSError:
        raise UserError(
            f'there is no table {str(file)!r}: expected a YAML file with the mean latency of each '
            'layer, as mobile_trim.yaml of github.com/han-cai/files, folder proxylessnas.'
        ) from None
    except (yaml.YAMLError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise UserError(
            f'{file} is not a table of latencies: expected layers, each with a mean '
            f'({type(error).__name__}: {" ".join(str(error).split())}).'
        ) from error

    def cost(layer: Layer) -> float:
        if layer.key not in means:
            raise UserError(
                f'the table {file} has no {layer.key}: its layers are those of one space, at one '
                f'size of images.{nearest(layer.key, means, 1)}'
            )
        return means[layer.key]

    return cost


def multiply_adds(layer: Layer) -> float:
    """Returns thousands of multiply-adds, as a cost that ignores everything else."""
    pixels, area = layer.out**2, layer.window**2
    if layer.kind == 'Logits':
        count = layer.channels * layer.features
    elif layer.kind != 'expanded_conv':
        count = pixels * area * layer.channels * layer.features
    else:
        width = layer.channels
        if layer.expansion != 1:
            width = round_channels(layer.channels * layer.expansion)
        count = pixels * width * (area + layer.features)
        count += layer.size**2 * layer.channels * width if layer.expansion != 1 else 0
    return count / 1000

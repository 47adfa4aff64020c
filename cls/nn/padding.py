"""Conventions of padding for convolutions and pools.

A convention is named after its origin, because two frameworks that both say 'same' pad differently
as soon as a stride is involved:

* `None`: symmetric, `dilation * (k - 1) // 2` zeros on each side (PyTorch, Caffe);
* `'SAME'`: TensorFlow's; the output has `ceil(n / stride)` pixels, an odd zero goes to the end;
* `'VALID'`: no padding;
* an integer, a pair (height, width), or two (before, after) pairs: explicit.
"""

from collections.abc import Sequence

from jax import lax

Size = int | tuple[int, int]
Padding = None | str | int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]
Pads = tuple[tuple[int, int], tuple[int, int]]


def pair(size: Size) -> tuple[int, int]:
    """Returns (height, width) of a size that is one number or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def explicit_padding(
    padding: Padding,
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> Pads:
    """Returns ((top, bottom), (left, right)) in pixels for a convention of padding.

    Args:
      padding: the convention, see the module.
      size: height and width of the input.
      window: height and width of the kernel or pooling window.
      strides: strides in height and width.
      dilation: dilation in height and width.
    """
    extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True))
    if padding is None:
        height, width = ((e - 1) // 2 for e in extent)
    elif isinstance(padding, str):
        height, width = lax.padtype_to_pads(size, extent, strides, padding)
    else:
        height, width = (padding, padding) if isinstance(padding, int) else padding
    return pair(height), pair(width)


def pooling_padding(
    padding: Padding,
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    ceil_mode: bool,
) -> Pads:
    """Returns `explicit_padding`, extended at the bottom and right for `ceil_mode`.

    Args:
      padding: the convention, see the module.
      size: height and width of the input.
      window: height and width of the pooling window.
      strides: strides in height and width.
      ceil_mode: whether a last window counts that starts inside the image and overhangs it.
    """
    pads = explicit_padding(padding, size, window, strides)
    if not ceil_mode:
        return pads
    extended = []
    for n, k, s, (low, high) in zip(size, window, strides, pads, strict=True):
        outputs = -(-(n + low + high - k) // s) + 1
        if (outputs - 1) * s >= n + low:  # the last window would start beyond the image
            outputs -= 1
        extended.append((low, max(high, (outputs - 1) * s + k - n - low)))
    return tuple(extended)

"""ONNX files with weights and activations of 8 bits, by onnxruntime's static quantization."""

import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cls.errors import UserError


def quantize(file: Path, output: Path, batches: Iterable[np.ndarray]) -> None:
    """Writes a quantized file.

    Weights are int8 with a scale for each channel: with uint8 weights, onnxruntime 1.32 drops the
    bias of channels whose kernel is near zero. Activations are uint8, with the range from the
    smallest to the largest value on the images.

    Args:
      file: the file to quantize.
      output: the file to write.
      batches: images as the file takes them, (N, H, W, C).

    Raises UserError if onnxruntime refuses the file, or there are no images.
    """
    from onnxruntime import quantization

    first = next(iter(batches := iter(batches)), None)
    if first is None:
        raise UserError('no images to calibrate with: expected at least one.')
    reader: Any = _Reader(itertools.chain([first], batches))
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends optimizations that the graph has already
    try:
        quantization.quantize_static(
            str(file),
            str(output),
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
    except Exception as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'onnxruntime cannot quantize the model: {reason}') from error
    finally:
        logging.disable(before)


class _Reader:
    """The images for onnxruntime: its interface CalibrationDataReader."""

    def __init__(self, batches: Iterator[np.ndarray]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Any] | None:
        """Returns the next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {'images': batch}

    def __iter__(self) -> '_Reader':
        return self

    def __next__(self) -> dict[str, Any]:
        batch = self.get_next()
        if batch is None:
            raise StopIteration
        return batch

    def __len__(self) -> int:
        raise TypeError('the number of batches is unknown')

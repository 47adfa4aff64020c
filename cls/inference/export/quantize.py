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

    Weights have 8 bits, a scale for each channel, and are symmetric: onnxruntime 1.32 makes them
    int8, since it drops the bias of channels whose kernel is near zero where it makes them uint8.
    They are stored as uint8 with the zero point 128, the same numbers: see `_unsigned`. Activations
    are uint8, with the range from the smallest to the largest value on the images.

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
    _unsigned(output)


def _unsigned(file: Path) -> None:
    """Stores the int8 weights of a file as uint8 with the zero point 128.

    On processors with AVX2 and without VNNI, onnxruntime adds two products of uint8 activations and
    int8 weights in 16 bits, which saturates (its page "Quantize ONNX models", on U8S8); its kernels
    for uint8 weights do not. MobileNet 0.25 lost 13 points of its accuracy on photographs, and
    loses 3 with them.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(file))
    arrays = {x.name: x for x in model.graph.initializer}
    for node in model.graph.node:
        names = [node.input[i] for i in (0, 2)] if node.op_type == 'DequantizeLinear' else []
        for name in names:
            tensor = arrays.get(name)
            if tensor is not None and tensor.data_type == onnx.TensorProto.INT8:
                shifted = numpy_helper.to_array(tensor).astype(np.int16) + 128
                tensor.CopyFrom(numpy_helper.from_array(shifted.astype(np.uint8), name))
    onnx.save(model, str(file))


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

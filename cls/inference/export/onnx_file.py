"""ONNX files, on the optional packages onnx and onnxruntime (pip install 'cls[onnx]')."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cls.errors import UserError, require
from cls.inference.export.graph import Graph
from cls.inference.export.source import INSIDE, Source, check
from cls.inference.export.trace import traced

OPSET = 18
_IR_VERSION = 9


def write(source: Source, file: Path, graph: Graph | None = None) -> list[Path]:
    """Writes a model for any number of images; returns the file, and FILE.data of large weights.

    Args:
      source: the model.
      file: the file to write.
      graph: its graph, for `source.spec_of_any_number()`; None: it is traced.

    Raises UserError for a primitive without an operator, or if a package is not installed.
    """
    for package in ('onnx', 'onnxruntime'):
        require(package, 'onnx')
    import onnx

    graph = graph or traced(source.compute, source.spec_of_any_number())
    model = proto(graph, source.output_name)
    model.producer_name = 'cls'
    _describe(model, source.metadata(opset=OPSET))
    if sum(x.nbytes for x in graph.constants()) <= INSIDE:
        file.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(file))
        return [file]
    data = file.with_name(f'{file.name}.data')
    onnx.save_model(
        model, str(file), save_as_external_data=True, location=data.name, size_threshold=1024
    )
    onnx.checker.check_model(str(file))
    return [file, data]


def _describe(model: Any, metadata: dict[str, Any]) -> None:
    del model.metadata_props[:]
    for key, value in metadata.items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=key, value=text)


def describe(file: Path, metadata: dict[str, Any]) -> None:
    """Replaces the metadata of a file, of less than 2 GB."""
    import onnx

    model = onnx.load(str(file))
    _describe(model, metadata)
    file.write_bytes(model.SerializeToString())


def proto(graph: Graph, output: str) -> Any:
    """Returns the ModelProto of a graph, with an input `images` and an output of a name."""
    from onnx import helper

    from cls.inference.export.onnx_builder import Builder
    from cls.inference.export.onnx_operators import OPERATORS
    from cls.inference.export.onnx_writer import Writer

    builder = Builder()
    last = Writer(graph, builder, 'images', OPERATORS).write()
    builder.nodes.append(helper.make_node('Identity', [last], [output], name=output))
    ends = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(value.dtype),
            [n if isinstance(n, int) else str(n) for n in value.shape],
        )
        for name, value in (('images', graph.input), (output, graph.output))
    ]
    made = helper.make_graph(builder.nodes, 'cls', ends[:1], ends[1:], builder.constants)
    opsets = [helper.make_opsetid('', OPSET)]
    return helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION)


def session(model: Path | bytes, threads: int = 0) -> Any:
    """Returns onnxruntime's session of a file or its content, on the CPU.

    Args:
      model: the file, or its content.
      threads: their number; 0: one for each core.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])


def outputs(opened: Any, images: np.ndarray) -> np.ndarray:
    """Returns the outputs of a session for images."""
    return opened.run(None, {'images': images})[0]


def compare(source: Source, file: Path) -> float:
    """Returns the difference between a file and the model, computed by onnxruntime.

    Raises UserError if it is too large, or onnxruntime refuses the file.
    """
    images = source.samples(3)
    try:
        actual = outputs(session(file), images)
    except Exception as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'{file.name} cannot be run by onnxruntime: {reason}') from error
    return check(source, images, actual, file.name)

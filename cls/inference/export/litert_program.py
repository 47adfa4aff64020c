"""Converts StableHLO text to LiteRT and runs it; for an interpreter with LiteRT, without cls.

python litert_program.py MODEL.mlir MODEL.tflite IMAGES.npz OUTPUTS.npz OUTPUT_NAME
"""

import sys

import numpy as np


def main(text, file, images, outputs, name):
    """Writes the model and its outputs for the images."""
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager

    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context, ir.Location.unknown():
        with open(text) as opened:
            module = ir.Module.parse(opened.read())
        config = converter.ConvertToTFLConfig()
        config.model_origin_framework = 'JAX'
        converter.set_signature(module.operation, 'serving_default', ['images'], [name])
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
        converter.export_flatbuffer_to_file(module.operation, file)

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=file)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner('serving_default')
    np.savez(outputs, outputs=runner(images=np.load(images)['images'])[name])


if __name__ == '__main__':
    main(*sys.argv[1:])

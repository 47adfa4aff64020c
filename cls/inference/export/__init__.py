"""Export of models: StableHLO, ONNX, LiteRT, each checked before it is written.

May import: errors, nn, storage.
"""

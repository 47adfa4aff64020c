"""The optional extension that lets programs for CPU call the convolutions of oneDNN.

`build` compiles it on request, `load` registers it. Programs use it through `cls.nn.cpu.native`.

May import: errors, nn, storage.
"""

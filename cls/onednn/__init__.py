"""The optional extension that lets programs for CPU call the convolutions of oneDNN.

It also has a faster algorithm for windows of 3 x 3 pixels, and what is slow in XLA's programs for
CPUs, or long to compile: sums of batch norms, random numbers, and many arrays in one.

`build` compiles it on request, `load` registers it. Programs use it through `cls.nn.cpu.native`.

May import: errors, nn, storage.
"""

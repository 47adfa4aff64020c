"""Data sources, decoding, transforms and pipelines on the host, without JAX.

May import: errors, registration, signals, storage.
"""

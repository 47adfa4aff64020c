"""Preparation of the data sets of `cls.tools.prepare`.

May import: data, errors, signals, storage.
"""

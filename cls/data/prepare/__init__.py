"""Preparation of the data sets that `cls.tools.prepare` knows.

May import: data, errors, signals, storage.
"""

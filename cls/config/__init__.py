"""Configs: fields and their defaults, loading, overriding, durations, presets.

May import: data, errors, models, nn, storage, weights.
"""

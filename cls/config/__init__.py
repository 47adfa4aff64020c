"""Configs: fields and their defaults, loading, overriding, durations, presets, run folders.

May import: data, errors, models, nn, registration, run, steps, storage, weights.
"""

"""Evaluation: protocols, metrics, scores of the robustness test sets, precise batch norm.

May import: data, errors, steps, storage.
"""

"""The run folder: opening it, checkpoints, metrics, and the account of its time.

May import: distributed, errors, storage.
"""

"""The run folder: opening it, checkpoints, metrics, and the ledger of its time.

May import: distributed, errors, storage.
"""

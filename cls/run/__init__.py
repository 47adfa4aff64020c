"""The run folder: its lock, checkpoints, metrics and time ledger.

May import: distributed, errors, onednn, storage.
"""

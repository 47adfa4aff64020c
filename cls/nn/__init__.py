"""Layers and families of blocks that more than one model uses.

May import: errors.
"""

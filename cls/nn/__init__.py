"""Layers, and the families of blocks that several models share.

May import: errors.
"""

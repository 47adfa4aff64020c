"""Fast forms of convolutions and pools for XLA's CPU backend.

May import: nothing.
"""

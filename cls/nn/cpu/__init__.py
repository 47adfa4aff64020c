"""Forms of convolutions and pools that XLA's CPU backend runs fast, with the results of its own.

May import: nothing of cls.
"""

"""Commands, each run as `python -m cls.tools.NAME`.

May import: anything.
"""

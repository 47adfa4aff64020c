"""The HTML page of a run, of several runs or of a sweep: one file without a network.

May import: anything but main, recipes, tools.
"""

"""Many runs, one answer: sweeps over fields and seeds, and comparisons of their results.

May import: anything but main, recipes, tools.
"""

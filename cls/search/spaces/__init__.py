"""The search spaces of the papers.

A space is a frozen dataclass. Its fields are its sizes, with the paper's as defaults.
"""

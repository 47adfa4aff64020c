"""The papers' search spaces, by name.

A space is a frozen dataclass: its sizes are its fields, with the paper's as defaults.
"""

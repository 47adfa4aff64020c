"""A model behind HTTP: a page, a JSON endpoint, and requests that are computed in batches.

May import: errors, inference.
"""

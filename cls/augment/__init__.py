"""Image operations inside the compiled step.

May import: errors.
"""

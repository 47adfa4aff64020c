"""Pure compiled functions: the training state, the steps, and their parts.

May import: augment, errors, models, nn, registration.
"""

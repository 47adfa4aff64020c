"""Pure compiled functions: the training state, the steps, and all that they are made of.

May import: augment, errors, models, nn.
"""

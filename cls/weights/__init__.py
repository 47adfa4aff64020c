"""Foreign checkpoints -> Flax variables: `read` a file, then `from_torch` its tensors.

May import: config, data, errors, models, run, steps, storage.
"""

from cls.weights.convert import Fitted, fit, from_torch, same_tensors
from cls.weights.torch_file import Checkpoint, open_checkpoint, read

__all__ = ['Checkpoint', 'Fitted', 'fit', 'from_torch', 'open_checkpoint', 'read', 'same_tensors']

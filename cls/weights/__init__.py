"""Foreign checkpoints -> Flax variables: `read` a file, then `from_torch` its tensors."""

from cls.weights.convert import from_torch, num_classes
from cls.weights.torch_file import read

__all__ = ['from_torch', 'num_classes', 'read']

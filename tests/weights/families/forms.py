"""Forms of tensors that `golden.keyed` does not draw."""

import numpy as np


def mask_of_groups(mask: np.ndarray, groups: int) -> np.ndarray:
    """Returns zeros and ones, equal for all outputs of a group; output o is in o modulo `groups`.

    Args:
      mask: (O, I, 1, 1).
      groups: number of groups.
    """
    return np.tile(mask[:groups] > 0, (len(mask) // groups, 1, 1, 1)).astype(mask.dtype)

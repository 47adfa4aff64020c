"""The linear layer."""

from typing import Any

import flax.linen as nn

from cls.nn import init


class Dense(nn.Dense):
    """Flax's Dense with PyTorch's initializer, U(-1/sqrt(in), 1/sqrt(in)), and a bias of zeros.

    Maps (..., in) to (..., features). Parameters: `kernel` (in, features), `bias` (features,).
    """

    kernel_init: Any = init.VarianceScaling(1 / 3, 'fan_in', 'uniform')
    bias_init: Any = init.zeros

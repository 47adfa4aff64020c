"""The names of efficientnet-pytorch 0.7.1 and efficientnet-lite-pytorch 0.1.0.

The networks are the authors' (TensorFlow's padding, an epsilon of 1e-3); the variants list these
names as older ones. The packages fix the padding for the network's own image size. For other sizes
it follows the image here, as in TensorFlow.
"""

from cls.weights.families import Family, Names

_SIZES = (*(f'b{i}' for i in range(9)), 'l2', *(f'lite{i}' for i in range(5)))

FAMILY = Family(
    'efficientnet_pytorch',
    (
        Names(
            rf'tf_efficientnet_({"|".join(_SIZES)})',
            lambda variant: variant.old_names,
        ),
    ),
    networks={f'efficientnet-{size}': f'tf_efficientnet_{size}' for size in _SIZES},
)

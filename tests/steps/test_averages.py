"""Decays of the average of weights against the formulas of the libraries that they are from."""

import jax.numpy as jnp
import numpy as np
import pytest

from cls.steps.averages import WARMUPS, decay


def timm(update):
    """ModelEmaV3.get_decay of timm/utils/model_ema.py, use_warmup=True, of update 1, 2, ..."""
    step = max(0, update - 1)
    return 0.0 if step <= 0 else min(1 - (1 + step / 1.0) ** -(2 / 3), 0.99)


FORMS = {
    'tensorflow': lambda t: min(0.99, (1 + t) / (10 + t)),
    'timm': lambda t: timm(t + 1),
    'none': lambda t: 0.99 if t else 0.0,
}


@pytest.mark.parametrize('every', [1, 3])
@pytest.mark.parametrize('warmup', WARMUPS)
def test_decays(warmup, every):
    steps = np.arange(3000)
    got = [float(decay(0.99, warmup, every, jnp.int32(step))) for step in steps[::301]]
    updates = [
        (step + 1) // every - 1 if (step + 1) % every == 0 else None for step in steps[::301]
    ]
    expected = [1.0 if update is None else FORMS[warmup](update) for update in updates]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert float(decay(0.99, warmup, 1, jnp.int32(0))) == pytest.approx(FORMS[warmup](0))

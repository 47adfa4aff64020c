#!/usr/bin/env bash
# optax 0.2.8: reduce_on_plateau never reduces the rate for a negative value that stays the same.
#
# One would guess that -accuracy can be given for a metric to maximize, as to any rule for minimizing,
# and that a value that stays the same for `patience` updates is a plateau. An improvement is a value
# below (1 - rtol) * best: for a negative best this limit is above it, so with the default rtol the best
# value itself, and values that are worse by up to rtol, count as improvements and become the new best:
# a metric may fall for ever by less than rtol each time. With the same accuracy as an error, 1 - accuracy,
# the rate is reduced. PyTorch's ReduceLROnPlateau has a mode for metrics to maximize (its relative
# threshold has the same form for negative values of mode='min'; that is not run here).
# Hurt: trainings that watch -accuracy, -F1 or a log likelihood as a loss: the rate stays at its peak,
# without a warning. rtol=0 with atol=1e-4 avoids it.
# Source: optax/contrib/_reduce_on_plateau.py of optax 0.2.8 (the newest);
# https://github.com/google-deepmind/optax/pull/1767 (open); PyTorch's: issue 47513 (open);
# https://optax.readthedocs.io/en/latest/api/contrib.html#optax.contrib.reduce_on_plateau.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 \
  numpy==2.4.6
cat > "$folder/plateau.py" <<'END'
import sys

import jax.numpy as jnp
import jax
import optax
import optax.contrib

print(f'optax {optax.__version__}, jax {jax.__version__}')


def scale(values, **options):
    """The factor of the rate after evaluations, with a patience of 5."""
    rule = optax.contrib.reduce_on_plateau(factor=0.1, patience=5, **options)
    state = rule.init(jnp.zeros(1))
    for value in values:
        _, state = rule.update(jnp.ones(1), state, value=value)
    return float(state.scale)


same = [0.9] * 40
worse = [0.9 * (1 - 5e-5) ** i for i in range(40)]
results = {}
for name, accuracies in {'the same': same, 'a bit worse each time': worse}.items():
    errors, negative = [1 - x for x in accuracies], [-x for x in accuracies]
    results[name] = [scale(errors), scale(negative), scale(negative, rtol=0.0, atol=1e-4)]
    print(f'accuracy {name}, 40 values: scale by 1 - accuracy {results[name][0]:.0e}, by -accuracy '
          f'{results[name][1]:g}, with rtol=0 and atol=1e-4 {results[name][2]:.0e}')
expected = all(one < 1e-3 and other == 1 and last < 1e-3 for one, other, last in results.values())
sys.exit(not expected)
END
if JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/plateau.py"; then
  echo 'With a negative value the rate is never reduced.'
else
  echo 'The behavior has changed.'
  exit 1
fi

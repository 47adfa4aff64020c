#!/usr/bin/env bash
# jax 0.10.2: jax.random.key(2**32) is jax.random.key(0): all but the low 32 bits of a seed are dropped.
#
# One would guess that two seeds give two keys, as in NumPy and Python, or that a seed out of range is
# refused: the documentation says "a 64- or 32-bit integer used as the value of the key". By
# default, without jax_enable_x64, the seed loses its upper 32 bits with no warning, so that -1 is
# 2**32 - 1 and every multiple of 2**32 is 0. The neighbors refuse the same number: jax.jit(jax.random.key),
# jax.random.fold_in and jnp.asarray raise OverflowError. (The CPU generator of PyTorch 2.13.0 drops the
# upper bits of a seed too; that is not run here.)
# Hurt: programs that pack two numbers into a seed (trial << 32 | worker: all trials are the same), or
# that seed with a 64-bit hash or random number: of 77,000 such seeds, two are equal with even odds. An
# old experiment gets other keys from the same large seeds when x64 is turned on.
# Source: https://docs.jax.dev/en/latest/_autosummary/jax.random.key.html;
# jax/_src/random/prng.py, random_seed, of jax 0.10.2 (the newest for Python 3.11);
# https://github.com/jax-ml/jax/pull/4877 and https://github.com/jax-ml/jax/issues/16808 (open).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/seeds.py" <<'END'
import random
import sys
import warnings

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

warnings.simplefilter('error')  # a warning would end this program
x64 = jax.config.jax_enable_x64
print(f'jax {jax.__version__}, jaxlib {jaxlib.__version__}, numpy {np.__version__}, x64 {x64}')


def words(seed):
    return tuple(jax.random.key_data(jax.random.key(seed)).tolist())


for seed in (0, 2**32, 7, 2**32 + 7, 2**63 - 2**32 + 7, 2**32 - 1, -1):
    drawn = float(jax.random.uniform(jax.random.key(seed), dtype=jnp.float32))
    print(f'jax.random.key({seed}): {words(seed)}, uniform: {drawn:.6f}')
trials = {words(trial << 32 | 5) for trial in range(1000)}
print(f'1000 seeds trial << 32 | 5: {len(trials)} different keys')
if x64:
    sys.exit(not (len(trials) == 1000 and words(2**32) != words(0)))

same = [words(0) == words(2**32), words(7) == words(2**63 - 2**32 + 7), words(-1) == words(2**32 - 1)]
same.append(len(trials) == 1)
for name, call in {
    'jax.jit(jax.random.key)(2**32)': lambda: jax.jit(jax.random.key)(2**32),
    'jax.random.fold_in(key, 2**32)': lambda: jax.random.fold_in(jax.random.key(0), 2**32),
    'jnp.asarray(2**32)': lambda: jnp.asarray(2**32),
}.items():
    try:
        print(f'{name}: {call()}')
        same.append(False)
    except OverflowError as error:
        print(f'{name}: OverflowError: {str(error)[:60]}...')
for name, draw in {
    'numpy.random.default_rng': lambda seed: np.random.default_rng(seed).random(),
    'random.Random': lambda seed: random.Random(seed).random(),
}.items():
    print(f'{name}: seed 0: {draw(0):.6f}, seed 2**32: {draw(2**32):.6f}')
    same.append(draw(0) != draw(2**32))
sys.exit(not all(same))
END
export JAX_PLATFORMS=cpu
if JAX_ENABLE_X64=0 "$folder/venv/bin/python" "$folder/seeds.py" &&
  JAX_ENABLE_X64=1 "$folder/venv/bin/python" "$folder/seeds.py"; then
  echo 'Without x64, jax.random.key keeps the low 32 bits of a seed and does not say so.'
else
  echo 'The behavior has changed.'
  exit 1
fi

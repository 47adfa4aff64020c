#!/usr/bin/env bash
# jax 0.10.2 on CPUs: each draw of random numbers is a loop of its own in the program, which XLA compiles
# each time.
#
# One would guess that a draw is a few element-wise operations, fused with their neighbors, and that equal
# draws are compiled once. For CPUs JAX lowers its generator (threefry2x32) to a loop over rounds, because
# the unrolled rounds would be fused into each user. XLA calls a function for it, but copies that for each
# call: a network that drops paths at random, one key folded in and one mask drawn for each, has two loops
# for each path, and most of the instructions and of the time to compile its step are theirs. Drawn for all
# paths at once there are two loops.
# Hurt: networks with many dropouts or drop paths, and augmentation by many small draws, on CPUs.
# Source: _threefry2x32_cpu_lowering_rule in jax/_src/random/threefry2x32.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/draws.py" <<'END'
import time

import jax
import jax.numpy as jnp

PATHS = 100


def each(key, x):
    for i in range(PATHS):
        keep = jax.random.bernoulli(jax.random.fold_in(key, i), 0.8, (8, 1))
        x = jnp.tanh(x + keep)
    return x


def together(key, x):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(PATHS))
    masks = jax.vmap(lambda key: jax.random.bernoulli(key, 0.8, (8, 1)))(keys)
    for i in range(PATHS):
        x = jnp.tanh(x + masks[i])
    return x


key, x = jax.random.key(0), jnp.ones((8, 64))
for function in (each, together):
    lowered = jax.jit(function).lower(key, x)
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    text = compiled.as_text()
    print(text.count(' while('), text.count(' = '), f'{seconds:.1f}', float(compiled(key, x).sum()))
END
export JAX_PLATFORMS=cpu
{
  read -r loops lines seconds sum
  read -r few fewer quick same
} < <("$folder/venv/bin/python" "$folder/draws.py")
echo "100 draws, one by one: $loops loops, $lines instructions, $seconds s to compile; sum $sum."
echo "Drawn together: $few loops, $fewer instructions, $quick s; sum $same."
if ((loops >= 200 && few <= 4 && lines > 5 * fewer)) && [[ "$sum" == "$same" ]]; then
  echo 'On CPUs each draw is a loop of its own.'
else
  echo 'The behavior has changed.'
  exit 1
fi

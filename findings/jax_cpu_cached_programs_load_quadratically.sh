#!/usr/bin/env bash
# jax 0.10.2 on CPUs: reading a compiled program back takes about as long as compiling it, and time with
# the square of its size.
#
# One would guess that a program from JAX's compilation cache, or from serialize_executable, is read and
# linked in time that grows with its size: four times as many operations, four times the time. Equal
# operations are compiled once, so compilation is quick. But for each matrix product or reduction that XLA
# gives to its library for CPUs (YNNPACK, the default in this release), reading looks through all
# instructions of the program for the one with its number. Four times as many products take an order of
# magnitude longer. Without the library's products reading is quicker, and the step slower.
# Hurt: warm starts of large networks on CPUs. In a training step with thousands of such operations nearly
# all of the reading is that search (perf shows YnnFusionThunkFromProto and HloInstruction::unique_id).
# Source: xla/backends/cpu/runtime/thunk_serdes/ynn_fusion_thunk_serdes.cc, and `perf record` of the reading.
# Seen: 2000 products: compiled in 1.13 s, read in 1.10 s. 8000 products: compiled in 12.11 s, read in 16.74 s;
# without the library 5.47 s.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/read.py" <<'END'
import time

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable


def measure(count):
    matrix = jnp.ones((16, 16))
    lowered = jax.jit(lambda xs, y: [jnp.tanh(x @ y) for x in xs]).lower([matrix] * count, matrix)
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    kept = serialize_executable.serialize(compiled)
    start = time.perf_counter()
    serialize_executable.deserialize_and_load(*kept, execution_devices=jax.devices()[:1])
    return compiled.as_text().count('__ynn_fusion'), seconds, time.perf_counter() - start


for count in (2000, 8000):
    print('%d %.2f %.2f' % measure(count))
END
export JAX_PLATFORMS=cpu
measure() { "$folder/venv/bin/python" "$folder/read.py" | tr '\n' ' '; }
read -r few compiled read many compiled_many read_many < <(measure; echo)
flag=--xla_cpu_experimental_ynn_fusion_type=
read -r none _ _ _ _ read_without < <(XLA_FLAGS=$flag measure; echo)
echo "$few products: compiled in $compiled s, read in $read s."
echo "$many products: compiled in $compiled_many s, read in $read_many s; without the library $read_without s."
if ((few == 2000 && many == 8000 && none == 0)) &&
  awk "BEGIN { exit !($read_many > 6 * $read && $read_many > 0.5 * $compiled_many) }" &&
  awk "BEGIN { exit !($read_many > 1.5 * $read_without) }"
then
  echo 'Reading a compiled program takes time with the square of its size.'
else
  echo 'Reading a compiled program has become quicker, or the library is no longer used.' >&2
  exit 1
fi

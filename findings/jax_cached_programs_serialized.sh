#!/usr/bin/env bash
# jax 0.10.2 on CPUs: a compiled program that came from the persistent cache serializes without an error, and
# what is loaded from it cannot be called.
#
# One would guess that jax.experimental.serialize_executable takes any compiled program: a hit in
# jax_compilation_cache_dir gives the same jax.stages.Compiled, with the same results. An executable for
# CPUs that was itself loaded lost the machine code that a second serialization needs. Serializing it raises
# nothing, deserialize_and_load raises nothing; the first call ends with NOT_FOUND, a function of the program is
# missing. The bytes are fewer than those of the program when it was compiled.
# Hurt: who stores programs to save tracing and also has the persistent cache on: it works in a first process,
# and breaks for all later ones once the store is made again while JAX's cache is filled.
# Instead: serialize only what was compiled in this process; jax.monitoring has an event
# /jax/compilation_cache/cache_hits for each program that was not.
# Source: this script; jax/experimental/serialize_executable.py and jax/_src/compilation_cache.py of 0.10.2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/program.py" <<'END'
import sys

import jax
import jax.numpy as jnp
from jax.experimental.serialize_executable import deserialize_and_load, serialize

jax.config.update('jax_compilation_cache_dir', sys.argv[1])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith('/cache_hits')))


def function(x):
    return jnp.where(jnp.sin(x) > 0, x + 1, x - 1).sum(0)


x = jnp.ones((64, 64))
before = sum(hits)
compiled = jax.jit(function).lower(x).compile()
origin = 'from the cache' if sum(hits) > before else 'compiled'
direct = compiled(x).sum()
parts = serialize(compiled)
loaded = deserialize_and_load(*parts)
try:
    end = 'equal' if loaded(x).sum() == direct else 'different'
except Exception as error:
    end = f'{type(error).__name__} {str(error).splitlines()[0][:60]}'
print(f'{origin}: {len(parts[0])} bytes, the loaded program: {end}')
expected = {'compiled': end == 'equal', 'from the cache': end.startswith('JaxRuntimeError')}
sys.exit(not (origin == sys.argv[2] and expected[origin]))
END
export JAX_PLATFORMS=cpu
program() {
  "$folder/venv/bin/python" "$folder/program.py" "$folder/cache" "$1"
}
if program 'compiled' && program 'from the cache'; then
  echo 'A program from the persistent cache cannot be serialized again.'
else
  echo 'The behavior has changed.'
  exit 1
fi

#!/usr/bin/env bash
# jax 0.10.2 with libtpu 0.0.42.1: different all-reduces of one compiled program have the same channel_id.
#
# One would guess that the channel_id of a collective in XLA's optimized HLO names one exchange of data: the
# ids are unique in programs for CPUs, and TPU repeats an id where it splits one collective over several
# fusions, so that a tool which adds up what a step sends counts each id once. But a jitted function
# that a step calls several times may become several copies with the ids of the first: all-reduces of
# different arrays, one after the other in the same computation.
# Hurt: who counts collectives or their bytes by channel_id: all but one of the copies are missed.
# Instead: within one computation count each operation, whatever its id.
# Seen: `%main.7_spmd: channel_id=1: %all-reduce.12 %all-reduce.15`, and five ids with one each.
# Source: this script. No TPU is needed: libtpu compiles for chips that are absent.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1 \
  numpy==2.4.6
cat > "$folder/channels.py" <<'END'
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

chips = topologies.get_topology_desc(
    platform='tpu', topology_name='v5e:2x2', chips_per_host_bounds=(2, 2, 1), num_slices=1
).devices
mesh = Mesh(np.array(chips), ('batch',))


@jax.jit
def center(x, weights):
    return x @ weights - jnp.mean(x @ weights, 0)


def loss(weights, x):
    for function in (jnp.tanh, jnp.sin, jnp.square):
        x = function(center(x, weights))
    return jnp.sum(x)


def shape(sizes, *axes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=NamedSharding(mesh, P(*axes)))


step = jax.jit(jax.grad(loss)).lower(shape((256, 256)), shape((1024, 256), 'batch'))
seen = {}
computation = ''
for line in step.compile().as_text().splitlines():
    if line.endswith('{'):
        computation = line.split()[line.startswith('ENTRY')]
    if ' all-reduce(' in line:
        seen.setdefault((computation, re.search(r'channel_id=\d+', line)[0]), []).append(line.split(' = ')[0].split()[-1])
for (computation, channel), names in seen.items():
    print(f'{computation}: {channel}: {" ".join(names)}')
sys.exit(0 if any(len(names) > 1 for names in seen.values()) else 1)
END
if JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 "$folder/venv/bin/python" "$folder/channels.py" 2> "$folder/log"; then
  echo 'All-reduces of one computation share a channel_id.'
else
  tail -3 "$folder/log"
  echo 'Changed: each all-reduce has a channel_id of its own.'
  exit 1
fi

#!/usr/bin/env bash
# jax 0.10.2 on CPUs: a compiled program faults in all pages of its temporary memory again in each call.
#
# One would guess that a compiled program keeps its workspace, or that the allocator does. XLA allocates
# the temporary memory of a program as one block in each call, and the GNU C library maps a block of more
# than 32 MB for each call and unmaps it afterwards, whatever its options. A training step with a workspace of
# 1 GB has 260,000 page faults, and the kernel clears 1 GB. M_MMAP_MAX=0 does not help: threads other than
# the first have arenas of 64 MB and map what is larger. With GLIBC_TUNABLES=glibc.malloc.hugetlb=1,
# read only at the start of a process, the library asks for huge pages, with 512 times fewer faults.
# Hurt: training and inference on CPUs, whose steps have workspaces of such sizes.
# Source: glibc's manual, "Memory Allocation Tunables"; sysmalloc in malloc/malloc.c of glibc 2.36.
set -euo pipefail
if ! grep -q '\[madvise\]' /sys/kernel/mm/transparent_hugepage/enabled; then
  echo 'This system does not offer huge pages on request: nothing to see here.'
  exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/faults.py" <<'END'
import resource

import jax
import jax.numpy as jnp
from jax import lax

x = jnp.ones((4, 64, 64, 64))
kernel = jnp.ones((3, 3, 64, 64)) / 576


def loss(kernel):
    y = x
    for _ in range(24):
        y = lax.conv_general_dilated(y, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
        y = jnp.tanh(y)
    return y.sum()


step = jax.jit(jax.grad(loss)).lower(kernel).compile()
for _ in range(2):
    step(kernel).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step(kernel).block_until_ready()
faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 3
print(step.memory_analysis().temp_size_in_bytes // 4096, faults)
END
export JAX_PLATFORMS=cpu
read -r pages plain < <("$folder/venv/bin/python" "$folder/faults.py")
read -r _ huge < <(GLIBC_TUNABLES=glibc.malloc.hugetlb=1 "$folder/venv/bin/python" "$folder/faults.py")
echo "A step with $pages pages of temporary memory has $plain page faults in each call."
echo "With GLIBC_TUNABLES=glibc.malloc.hugetlb=1 it has $huge."
if ((plain > pages / 2 && huge < plain / 20)); then
  echo 'On CPUs each call faults in its temporary memory again.'
else
  echo 'The behavior has changed.'
  exit 1
fi

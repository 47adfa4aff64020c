#!/usr/bin/env bash
# jax 0.10.2 on CPUs: the gradient of a convolution takes many times as long inside lax.fori_loop or lax.scan.
#
# One would guess that a loop costs nothing next to the work of its body: docs.jax.dev recommends lax.scan
# for training steps and for microbatches. XLA's pass ConvCanonicalization orders the axes so that
# Eigen's threaded kernel can be called. It visits the entry computation only. The gradients of convolutions are
# written with other orders; in the body of a loop they stay so and become naive loops on one thread. A
# forward convolution in NHWC has the order already. On TPU and GPU there is no such pass.
# Hurt: epochs in one lax.scan, accumulation of gradients by lax.scan and layers under lax.scan, on CPUs.
# Instead: call a jitted step from Python, or unroll (lax.scan(..., unroll=True), lax.fori_loop likewise).
# Source: xla/service/cpu/conv_canonicalization.cc of jaxlib 0.10.2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/loops.py" <<'END'
import functools
import re
import sys
import time

import jax
import jax.numpy as jnp
from jax import lax

x, kernel = jnp.ones((8, 16, 16, 32)), jnp.ones((3, 3, 32, 32))
ORDERS = ('NHWC', 'HWIO', 'NHWC')


def loss(kernel):
    return (lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=ORDERS) ** 2).sum()


def step(kernel):
    return kernel - 1e-9 * jax.grad(loss)(kernel)


def measured(name, function, steps):
    compiled = jax.jit(function).lower(kernel).compile()
    orders = sorted(set(re.findall(r'dim_labels=([^\s,]+)', compiled.as_text())))
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(kernel))
        times.append(1000 * (time.perf_counter() - begin) / steps)
    print(f'{name}: {min(times):.1f} ms a step; convolutions {", ".join(orders)}')
    return min(times)


scan = functools.partial(lax.scan, lambda k, _: (step(k), None), length=4)
alone = measured('a step', step, 1)
loop = measured('in lax.fori_loop', lambda k: lax.fori_loop(0, 4, lambda _, k: step(k), k), 4)
scanned = measured('in lax.scan', lambda k: scan(k)[0], 4)
unrolled = measured('in lax.scan, unrolled', lambda k: scan(k, unroll=True)[0], 4)
sys.exit(not (min(loop, scanned) > 4 * alone and unrolled < 3 * alone))
END
export JAX_PLATFORMS=cpu
if "$folder/venv/bin/python" "$folder/loops.py"; then
  echo 'On CPUs the gradient of a convolution is slow in loops.'
else
  echo 'The behavior has changed.'
  exit 1
fi

"""Networks with keyed weights as sources of exports, and a process that has JAX alone."""

import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from golden import keyed, rows

from cls import models, weights
from cls.inference.export.source import Source

ROWS = rows.read_all()


def row_of(name):
    """Returns the golden row of a variant, None for a variant without one."""
    return ROWS.get(models.variant(name).reference) or ROWS.get(f'restated:{name}')


def drawn(module, size):
    """Returns variables that keep the signal, with statistics that are not those of the start."""
    rng = np.random.default_rng(0)
    shapes = models.registry.abstract_variables(module, size, 3)
    layers = sum(len(x.shape) > 1 for x in jax.tree.leaves(shapes))
    # The sum of many residuals would grow without bound, and their rounding with it.
    gain = 1.5 if layers < 60 else min(0.3, 60 / layers)

    def value(path, x):
        if len(x.shape) > 1:
            bound = math.sqrt(3 * gain / math.prod(x.shape[:-1]))
            kernel = rng.uniform(-bound, bound, x.shape)
            axes = tuple(range(len(x.shape) - 1))
            kernel -= kernel.mean(axes, keepdims=True) if math.prod(x.shape[:-1]) > 15 else 0
            return kernel.astype(x.dtype)
        low, high = (0.5, 1.5) if path[-1].key in ('var', 'scale') else (-0.3, 0.3)
        return rng.uniform(low, high, x.shape).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


def normalized(pixels):
    return (jnp.asarray(pixels, jnp.float32) - 120) / 60


def source_of(name, pixels=False, **description):
    """Returns a variant with the weights of its golden row, at the size of its images.

    Without a row the weights are `drawn`, and images have at most 96 pixels.
    """
    row = row_of(name)
    size, channels = (
        (row.size, row.channels) if row else (min(models.variant(name).input_size, 96), 3)
    )
    module = models.create(name, **(row.fields if row else {}))
    if row:
        state_dict = keyed.state_dict(row.tensors, row.gain)
        variables = weights.from_torch(state_dict, name, **row.fields)
    else:
        variables = drawn(module, size)
    classes = tuple(f'class {i}' for i in range(module.num_classes))
    return Source(
        module,
        variables,
        size,
        channels,
        normalized,
        pixels,
        classes,
        {'name': name, **description},
    )


_WORKER = """
import json, sys
import numpy as np
import jax
from jax import export
options = json.loads(sys.argv[1])
for line in sys.stdin:
    file, images, out = json.loads(line)
    model = export.deserialize(bytearray(open(file, 'rb').read()))
    call = jax.jit(model.call, compiler_options=options or None)
    np.save(out, np.asarray(call(np.load(images))))
    assert not any(name == 'cls' or name.startswith('cls.') for name in sys.modules)
    jax.clear_caches()
    print('done', flush=True)
"""


class Worker:
    """A process that imports JAX and nothing of cls, for several files one after another."""

    def __init__(self, options):
        command = [sys.executable, '-I', '-c', _WORKER, json.dumps(options)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, file, images, folder):
        """Returns the outputs of a StableHLO file."""
        np.save(folder / 'images.npy', images)
        request = [str(file), str(folder / 'images.npy'), str(folder / 'outputs.npy')]
        self._process.stdin.write(json.dumps(request) + '\n')
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f'the process ended with code {self._process.wait()}'
        return np.load(folder / 'outputs.npy')

    def end(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

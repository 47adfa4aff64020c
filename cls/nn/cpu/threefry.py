"""JAX's usual random numbers, by the extension. Only for programs for one CPU device.

In XLA's programs for CPUs each draw is a loop, and networks that draw for each path have hundreds.
The numbers are the same to the bit. `jax.random.poisson`, that takes no generator but JAX's, is the
exception: it refuses these keys.
"""

from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from cls.nn.cpu import native


def wrapped(data: jax.Array) -> jax.Array:
    """Returns the key of key data (2,), uint32; within `for_cpu` its draws call the extension."""
    settings: Any = jax.config
    usual = settings.jax_default_prng_impl == 'threefry2x32' and settings.jax_threefry_partitionable
    own = usual and native.is_certain()
    return jax.random.wrap_key_data(data, impl=_GENERATOR if own else None)


def _draw(key, shape, both):
    return jax.ffi.ffi_call(
        'cls_random_draw', jax.ShapeDtypeStruct(shape, jnp.uint32), vmap_method='expand_dims'
    )(key, both=both)


def _random_bits(key, bit_width, shape):
    if bit_width == 64:
        high, low = jnp.moveaxis(_draw(key, (*shape, 2), True).astype(jnp.uint64), -1, 0)
        return high << 32 | low
    return _draw(key, shape, False).astype(f'uint{bit_width}')


def _split(key, shape):
    return _draw(key, (*shape, 2), True)


def _fold_in(key, number):
    call = jax.ffi.ffi_call(
        'cls_random_fold_in', jax.ShapeDtypeStruct((2,), jnp.uint32), vmap_method='broadcast_all'
    )
    return call(key, jnp.asarray(number).astype(jnp.uint32))


def _seed(number):
    return jnp.stack([jnp.uint32(0), number.astype(jnp.uint32)])


_GENERATOR: Any = jax.extend.random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name='cls_threefry2x32',
    tag='cls',
)

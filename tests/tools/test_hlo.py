"""The communication of programs: the reader of HLO, on programs with known bytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cls.steps import sharding as meshes
from cls.tools.tpu.hlo import Collective, Move, collectives, moves, size

MESH = meshes.make_mesh(4)  # data 2, fsdp 4


def array(shape, *spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(MESH, P(*spec)))


def compiled(function, *args, out=None):
    out = None if out is None else NamedSharding(MESH, P(*out))
    return collectives(jax.jit(function, out_shardings=out).lower(*args).compile().as_text())


def on_each(function, into, out):
    return jax.shard_map(function, mesh=MESH, in_specs=P(*into), out_specs=P(*out), check_vma=False)


RING = [(0, 1), (1, 2), (2, 3), (3, 0)]


@pytest.mark.parametrize(
    ('function', 'into', 'out', 'expected'),
    [
        (lambda x: jax.lax.psum(x, ('data', 'fsdp')), (), (), ('all-reduce', 320, 8)),
        (lambda x: jax.lax.psum(x, 'data'), (), (), ('all-reduce', 320, 2)),
        (lambda x: jax.lax.all_gather(x, 'fsdp'), ('fsdp',), (), ('all-gather', 320, 4)),
        (lambda x: jax.lax.psum_scatter(x, 'fsdp'), (), ('fsdp',), ('reduce-scatter', 20, 4)),
        (lambda x: jax.lax.all_to_all(x, 'fsdp', 0, 1), (), (), ('all-to-all', 80, 4)),
        (
            lambda x: jax.lax.ppermute(x, 'fsdp', RING),
            ('fsdp',),
            ('fsdp',),
            ('collective-permute', 80, 8),  # two rings of four
        ),
    ],
    ids=['all', 'some', 'gather', 'scatter', 'exchange', 'ring'],
)
def test_each_kind(function, into, out, expected):
    """The array is 16 x 5 float32, or 4 x 5 on each device if its first axis is sharded."""
    small = expected[0] in ('reduce-scatter', 'all-to-all')
    x = array((4, 5) if small else (16, 5), *into)
    assert compiled(on_each(function, into, out), x) == [Collective(*expected)]


def test_several_arrays_that_are_reduced_together_are_one():
    both = on_each(lambda x: jax.lax.psum(x, 'fsdp'), (), ())
    found = compiled(both, (array((16,)), array((3, 7))))
    assert found == [Collective('all-reduce', 4 * (16 + 21), 4)]


def test_nothing_is_sent_if_examples_stay():
    x = array((16, 5), meshes.AXES)
    assert compiled(lambda x: jnp.sin(x).sum(1), x, out=(meshes.AXES,)) == []


def test_collectives_in_a_loop_count_once_per_iteration():
    def total(x):
        return jax.lax.scan(lambda total, x: (total + x.sum(0), None), jnp.zeros(3), x)[0]

    found = compiled(total, array((5, 16, 3), None, meshes.AXES), out=())
    assert found == [Collective('all-reduce', 12, 8, times=5)]


def test_a_layer_whose_kernel_is_split():
    """The kernel is gathered in the forward pass; its gradient is summed over the devices."""

    def gradient(kernel, x):
        return jax.grad(lambda kernel: jnp.sum((x @ kernel) ** 2))(kernel)

    kernel, x = array((256, 128), 'fsdp'), array((64, 256), meshes.AXES)
    whole = 4 * 256 * 128
    assert compiled(gradient, kernel, x, out=('fsdp',)) == [
        Collective('all-gather', whole, 4),
        Collective('all-reduce', whole, 4),  # on CPU a slice follows, instead of a reduce-scatter
        Collective('all-reduce', whole // 4, 2),
    ]


# The same layer for TPU v5e 2x4, jax 0.10.2, libtpu 0.0.42.1; shortened to the lines that count.
TPU = """\
HloModule jit_gradient, is_scheduled=true, num_partitions=8, frontend_attributes={x="default"}

%add.clone (x.1: f32[], y.1: f32[]) -> f32[] {
  ROOT %add.7 = f32[]{:T(128)} add(%x.1, %y.1)
}

%all-reduce-scatter (input: f32[256,128]) -> f32[64,128] {
  %input = f32[256,128]{1,0:T(8,128)S(1)} parameter(0)
  %all-reduce.2 = f32[256,128]{1,0:T(8,128)} all-reduce(%input), channel_id=3, \
replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add.clone
  ROOT %dynamic-slice.5 = f32[64,128]{1,0:T(8,128)S(1)} dynamic-slice(%all-reduce.2, %multiply.3)
}

%fused_computation.435 (param_0.1: bf16[64,128]) -> (bf16[64,128], bf16[256,128], u32[]) {
  %all-gather.5 = bf16[256,128]{1,0:T(8,128)(2,1)} all-gather(%param_0.1), channel_id=2, \
replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, \
dimensions={0}, use_global_device_ids=true
}

%async_collective_fusion.239 (param_0.2: bf16[64,128]) -> (bf16[64,128], bf16[256,128], u32[]) {
  %all-gather.6 = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%param_0.2), channel_id=2, \
replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, \
dimensions={0}, use_global_device_ids=true
}

ENTRY %main.1_spmd (param.1: f32[64,128], param: f32[8,256]) -> f32[64,128] {
  %f.1 = (bf16[64,128]{1,0}, bf16[256,128]{1,0}, u32[]) fusion(%c), calls=%fused_computation.435
  %f.2 = (bf16[64,128]{1,0}, bf16[256,128]{1,0}, u32[]) fusion(%f.1), \
calls=%async_collective_fusion.239
  %fusion = f32[64,128]{1,0:T(8,128)S(1)} fusion(%f.3), kind=kCustom, calls=%all-reduce-scatter
  ROOT %all-reduce.1 = f32[64,128]{1,0:T(8,128)} all-reduce(%fusion), channel_id=4, \
replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_2'}, \
use_global_device_ids=true, to_apply=%add.1.clone
}
"""


def test_the_same_layer_on_tpu():
    assert collectives(TPU) == [
        Collective('reduce-scatter', 4 * 64 * 128, 4),
        Collective('all-gather', 2 * 256 * 128, 4),  # in bfloat16, the type of the product
        Collective('all-reduce', 4 * 64 * 128, 2),
    ]


def test_copies_of_a_function_have_one_channel():
    copies = TPU.replace(
        '  ROOT %all-reduce.1',
        '  %all-reduce.3 = f32[8]{0} all-reduce(%p), channel_id=4\n  ROOT %all-reduce.1',
    )
    assert collectives(copies)[-2:] == [
        Collective('all-reduce', 4 * 8, 8),
        Collective('all-reduce', 4 * 64 * 128, 2),
    ]


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        (
            '%p = (f32[4,5]{1,0:T(4,128)}, f32[4,5]{1,0:T(4,128)S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) '
            'collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}',
            ('collective-permute', 80, 2),
        ),
        ('%p = f32[4,5]{1,0} collective-permute-done(%p)', None),
        (
            '%g = ((f32[2]{0}, bf16[3]{0}), (f32[8]{0}, bf16[12]{0})) all-gather-start(%x, %y), '
            'replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}',
            ('all-gather', 32 + 24, 4),
        ),
        (
            '%r = ((f32[8,3]{1,0}), f32[1,3]{1,0}, u32[]) reduce-scatter-start(%x), '
            'replica_groups={}, to_apply=%add',
            ('reduce-scatter', 12, 8),
        ),
        (
            'ROOT %a = (f32[16]{0}, pred[3]{0}, /*index=2*/s4[5]{0}) all-reduce-start(%x, %y, %z), '
            "replica_groups=mesh['a'=2,'b'=4] {'a','b':(1)2}, to_apply=%add",
            ('all-reduce', 64 + 3 + 3, 4),
        ),
        ('%f = f32[4]{0} fusion(%all-reduce.1), kind=kLoop, calls=%all_reduce_fusion', None),
        ('%a = f32[4]{0} add(%x, %y), metadata={op_name="an all-reduce(x)"}', None),
    ],
    ids=['start', 'done', 'gathers', 'everyone', 'reductions', 'fusion', 'metadata'],
)
def test_other_forms(line, expected):
    text = f'HloModule m, num_partitions=8\n\nENTRY %main (x: f32[4]) -> f32[4] {{\n  {line}\n}}\n'
    assert collectives(text) == ([Collective(*expected)] if expected else [])


MOVED = """HloModule m

%fused (p: bf16[8,4]) -> f32[4,8] {
  %p = bf16[8,4]{1,0} parameter(0)
  %c = f32[8,4]{1,0} convert(%p)
  ROOT %t = f32[4,8]{1,0} transpose(%c), dimensions={1,0}
}

%computes (p.1: f32[4,8]) -> f32[4,8] {
  %p.1 = f32[4,8]{1,0} parameter(0)
  %c.1 = f32[4,8]{0,1} copy(%p.1)
  ROOT %a = f32[4,8]{0,1} add(%c.1, %c.1)
}

%body (s: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %s = (s32[], f32[4,8]{1,0}) parameter(0)
  %r = f32[4,8]{1,0} reverse(%g), dimensions={1}
}

ENTRY %main (x: bf16[8,4]) -> f32[4,8] {
  %x = bf16[8,4]{1,0} parameter(0)
  %one = f32[4,8]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%fused
  %start = (f32[4,8]{1,0:S(1)}, f32[4,8]{1,0}, u32[]) copy-start(%one)
  %done = f32[4,8]{1,0:S(1)} copy-done(%start)
  %two = f32[4,8]{0,1} fusion(%done), kind=kLoop, calls=%computes
  %w = (s32[], f32[4,8]{1,0}) while(%t), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  ROOT %last = f32[4,8]{1,0:T(8,128)} copy(%two), metadata={op_name="a copy(x)"}
}
"""


def test_moves_are_operations_or_fusions_of_nothing_else():
    assert moves(MOVED) == [
        Move('reverse', 'f32[4,8]', 3),
        Move('convert + transpose', 'f32[4,8]'),
        Move('copy', 'f32[4,8]'),
    ]


def test_moves_of_a_program():
    def program(function, x):
        return moves(jax.jit(function).lower(x).compile().as_text())

    x = jax.ShapeDtypeStruct((64, 32), jnp.float32)
    (transposed,) = program(lambda x: x.T, x)
    assert transposed.bytes == 4 * 64 * 32
    assert program(lambda x: jnp.sin(x) + 1, x) == []


def test_sizes():
    assert size('f32[]') == 4
    assert size('(f8e4m3fn[4]{0}, c64[2,2]{1,0}, (bf16[<=3]{0}, token[]))') == 4 + 32 + 6


@functools.cache
def images():
    return array((32, 8, 8, 3), meshes.AXES, dtype=jnp.float32)


def test_mixing_sends_one_image_of_each_device():
    from cls.augment import mix

    spec = (meshes.AXES,)
    found = compiled(lambda x: mix.mixup(x, 0.3), images(), out=spec)
    assert found == [Collective('collective-permute', 4 * 8 * 8 * 3, 8)]


@pytest.mark.parametrize(('group', 'sent'), [(1, 0), (2, 0), (4, 1)])
def test_microbatches_of_whole_groups_are_made_where_the_examples_are(group, sent):
    """Each device has four examples: two groups of 2 are exchanged, one group of 4 stays."""
    from cls.steps.train_step import microbatches

    spec = (None, meshes.AXES)
    found = compiled(lambda x: microbatches(x, 2, group), images(), out=spec)
    assert bool(found) == bool(sent)
    assert sum(x.bytes for x in found) <= 2 * np.prod((4, 8, 8, 3)) * 4

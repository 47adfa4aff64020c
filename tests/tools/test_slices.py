"""TPU slices: their names, their chips, and the errors for slices that cannot be had."""

import importlib.util
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cls.errors import UserError
from cls.nn.conv import conv
from cls.tools.tpu import slices

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason='needs libtpu: pip install -r launch/requirements-tpu.txt',
)


def test_names():
    assert slices.parse('v5e:4x4') == slices.Slice('v5e', (4, 4))
    assert slices.parse('v5p:2x2x4').chips == 16
    two = slices.parse('v5e:4x8', 2)
    assert two.chips == 64
    assert str(two) == '2 x v5e:4x8'
    assert str(slices.parse('v4:2x2x1')) == 'v4:2x2x1'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('v5e-16', "'v5e-16': expected CHIP:SHAPE, .* v4, v5e, v5p, v6e. Did you mean v5e"),
        ('v3:4x4', r"'v3:4x4': expected CHIP:SHAPE"),
        ('v5e:2x2x1', 'along 2 axes, as v5e:2x2, v5e:2x4, v5e:4x4'),
        ('v5p:4x4', 'along 3 axes, as v5p:2x2x1'),
        ('v5e:4xfour', 'along 2 axes'),
        ('v5e:0x4', 'along 2 axes'),
        ('v5e:', 'along 2 axes'),
    ],
)
def test_texts_that_name_no_slice(text, message):
    with pytest.raises(UserError, match=message):
        slices.parse(text)


def test_the_number_of_slices():
    with pytest.raises(UserError, match='--slices is 0'):
        slices.parse('v5e:4x4', 0)


@pytest.mark.parametrize('name', slices.CHIPS)
def test_chips(name):
    chip = slices.CHIPS[name]
    # The operations of a cycle are those of whole matrix units: a power of two.
    power = math.log2(chip.flops / chip.clock)
    assert abs(power - round(power)) < 0.01
    assert all(slices.parse(f'{name}:{shape}') for shape in chip.shapes)
    counts = [math.prod(map(int, shape.split('x'))) for shape in chip.shapes]
    assert counts == sorted(counts)


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='pip install -r launch/requirements-tpu.txt'):
        slices.devices(slices.parse('v5e:4x4'))


@pytest.mark.sweep
@needs_libtpu
@pytest.mark.parametrize(('text', 'count'), [('v5e:4x4', 1), ('v5p:2x2x2', 1), ('v5e:2x2', 2)])
def test_devices(text, count):
    wanted = slices.parse(text, count)
    found = slices.devices(wanted)
    assert len(found) == wanted.chips
    assert {device.platform for device in found} == {'tpu'}


@pytest.mark.sweep
@needs_libtpu
def test_a_slice_that_cannot_be():
    with pytest.raises(UserError, match='cannot make the slice v5e:3x5 .* choose one of v5e:2x2'):
        slices.devices(slices.parse('v5e:3x5'))


@pytest.mark.sweep
@needs_libtpu
def test_programs_for_a_slice_are_those_of_its_platform():
    """A convolution that is a sum of shifted images on a CPU is a convolution on a TPU."""

    def program(devices):
        whole = NamedSharding(Mesh(devices, ('data',)), P())
        shapes = ((4, 8, 8, 16), (3, 3, 1, 16))
        args = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=whole) for shape in shapes]
        return jax.jit(lambda x, kernel: conv(x, kernel, groups=16)).lower(*args).as_text()

    assert 'stablehlo.convolution' in program(slices.devices(slices.parse('v5e:2x2')))
    assert 'stablehlo.convolution' not in program(jax.devices()[:4])

"""Grad-CAM and integrated gradients, compared with PyTorch's and with their definitions."""

import os
from pathlib import Path

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_run import encoded, pixels, write_run

import cls
from cls import models, weights
from cls.errors import UserError
from cls.inference import Model, Preprocess, explaining
from cls.tools import explain
from cls.weights.convert import shapes

GOLDEN = Path(__file__).with_name('explanations.npz')
TARGET, STEPS = 3, 16
PREPROCESS = Preprocess(
    drawn.SIZE, drawn.SIZE, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
)


def close(one, other):
    """Whether arrays agree to 1e-4 of the spread of the second."""
    return np.abs(one - other).max() <= 1e-4 * (other.max() - other.min())


@pytest.mark.parametrize(
    'name',
    [
        'squeezenet1_1',
        *(pytest.param(x, marks=pytest.mark.sweep) for x in ('resnet18', 'mobilenetv2_100')),
    ],
)
def test_the_maps_are_those_of_pytorch(name):
    """Golden arrays of an independent program, on the same weights."""
    golden = np.load(GOLDEN)
    module = models.create(name)
    named = shapes(module, models.variant(name))
    state = {key: drawn.tensor(key, shape) for key, shape in named.items()}
    model = Model(module, weights.from_torch(state, name), PREPROCESS, variant=name)
    array = drawn.image()
    assert close(model.logits(array)[0], golden[f'{name}/logits'])
    layer = str(golden[f'{name}/layer'])
    made = model.explain(array, target=TARGET, layer=layer)
    assert made.index == TARGET
    assert close(made.cam, golden[f'{name}/gradcam'])
    found, _ = explaining.integrated_gradients(model, array[None], TARGET, STEPS)
    assert close(found, golden[f'{name}/integrated'])


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp('runs') / 'tiny')


@pytest.fixture(scope='module')
def model(run):
    return cls.load(run)


def test_integrated_gradients_add_up_to_the_difference_of_the_logits(model):
    array = pixels(3, 40, 50)
    made = model.explain(array, 'integrated_gradients', target='bee', steps=64, baseline=array // 2)
    logits = model.logits([array, array // 2])[:, 1]
    difference = logits[0] - logits[1]
    assert made.heat.sum() - difference == pytest.approx(made.gap, abs=1e-4)
    assert abs(made.gap) < 0.05 * abs(difference) + 0.01
    assert (made.label, made.layer, made.cam) == ('bee', '', None)
    coarse = model.explain(array, 'integrated_gradients', target=1, steps=3)
    assert coarse.heat.shape == (32, 32)


def test_the_default_is_the_last_stage_and_the_best_class(model):
    array = pixels(3, 40, 50)
    made = model.explain(array)
    best = model.predict(array)[0]
    assert (made.index, made.label, made.name) == (best.index, best.label, best.name)
    assert made.probability == pytest.approx(best.probability)
    assert made.layer == 'stage3'
    assert made.cam.shape == (8, 8)
    assert made.heat.shape == (32, 32)
    assert made.heat.min() >= 0
    tench = model.explain(array, target='tench')
    assert tench.label == 'n01440764'


class Gated(nn.Module):
    """A network that sows a concatenation, an unused copy and its last map."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train=False):
        """Returns logits (N, 3)."""
        del train
        one, other = nn.Dense(4, name='a')(images), nn.Dense(2, name='b')(images)
        self.sow('intermediates', 'stage1', jnp.concatenate([one, other], -1))
        self.sow('intermediates', 'stage2', one * 2)
        x = nn.relu(one).mean((1, 2)) @ jnp.ones((4, 3)) + (other**2).mean((1, 2)).sum(-1)[:, None]
        return x * jnp.arange(1.0, 4)


def test_a_stage_of_parts_is_found_and_an_unused_one_is_not():
    module = Gated()
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    model = Model(module, variables, Preprocess(8, 8))
    assert explaining.default_layer(model) == 'stage1'
    array = pixels(0, 8, 8)
    made = model.explain(array, target=1)
    value = model.features(array)['stage1'][0]
    gradient = np.concatenate([2.0 * (value[..., :4] > 0), 2 * 2 * value[..., 4:]], -1) / 64
    wanted = np.maximum((value * gradient.mean((0, 1))).sum(-1), 0)
    np.testing.assert_allclose(made.cam, wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="do not depend on the output of 'stage2'"):
        model.explain(array, layer='stage2')


def test_overlays_show_the_strongest_part(model, tmp_path):
    made = model.explain(pixels(3, 40, 50))
    shown = made.overlay(opacity=1)
    assert shown.shape == (32, 32, 3)
    assert shown.dtype == np.uint8
    place = np.unravel_index(made.heat.argmax(), made.heat.shape)
    red, _, blue = shown[place].tolist()
    assert red > blue
    np.testing.assert_array_equal(made.overlay(opacity=0), made.pixels)
    made.save(tmp_path / 'a.png')
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'a.png')), made.overlay())
    with pytest.raises(UserError, match=r'expected a file NAME\.png'):
        made.save(tmp_path / 'a.jpg')


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'method': 'cam'}, "method is 'cam': expected one of gradcam"),
        ({'target': 'bea'}, "target is 'bea'.*Did you mean bee"),
        ({'target': 4}, 'target is 4: expected 0 to 3'),
        ({'layer': 'stage9'}, "there is no stage 'stage9'"),
        ({'method': 'integrated_gradients', 'steps': 0}, 'steps is 0'),
        ({'method': 'integrated_gradients', 'layer': 'stage1'}, 'which only gradcam takes'),
        ({'steps': 5}, 'which only integrated_gradients takes'),
        ({'baseline': pixels(0, 40, 40)}, 'a baseline is only for integrated_gradients'),
    ],
)
def test_mistakes_are_named(model, options, said):
    with pytest.raises(UserError, match=said):
        model.explain(pixels(0, 40, 40), **options)


def test_the_command_writes_an_overlay_for_each_image(run, tmp_path, capsys):
    folder = tmp_path / 'in'
    (folder / 'inner').mkdir(parents=True)
    for i, name in enumerate(('a.png', 'inner/a.png', 'b.png')):
        (folder / name).write_bytes(encoded(pixels(i, 40, 45)))
    (folder / 'c.png').write_bytes(b'nothing')
    output = tmp_path / 'out'
    flags = ['--from', str(run), str(folder), '--output', str(output)]
    assert explain.main(flags) == 1
    printed = capsys.readouterr()
    assert sorted(path.name for path in output.iterdir()) == ['a-2.png', 'a.png', 'b.png']
    assert 'c.png: not an image' in printed.err
    assert len(printed.out.splitlines()) == 3
    wanted = cls.load(run).explain(folder / 'b.png').overlay()
    np.testing.assert_array_equal(np.asarray(Image.open(output / 'b.png')), wanted)
    with pytest.raises(UserError, match='a.png exists.*--force to replace'):
        explain.main(flags)
    (output / 'b.png').write_bytes(b'another')
    assert explain.main([*flags, '--force']) == 1
    np.testing.assert_array_equal(np.asarray(Image.open(output / 'b.png')), wanted)
    with pytest.raises(UserError, match='target is'):
        explain.main([*flags, '--target', 'none'])


def test_a_map_does_not_replace_its_image(run, tmp_path):
    image = tmp_path / 'a.png'
    image.write_bytes(encoded(pixels(0, 40, 45)))
    before = image.read_bytes()
    with pytest.raises(UserError, match='would replace .*a.png, one of the images'):
        explain.main(['--from', str(run), str(image), '--output', str(tmp_path), '--force'])
    assert image.read_bytes() == before


def test_the_command_names_any_file_and_leaves_nothing_without_an_image(run, tmp_path, capsys):
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff.png'))
    file.write_bytes(encoded(pixels(0, 40, 45)))
    source = ['--from', str(run)]
    assert explain.main([*source, str(file), '--output', str(tmp_path / 'out')]) == 0
    assert r'out/\udcff.png: ' in capsys.readouterr().out
    missing = [str(tmp_path / 'missing.png'), '--output', str(tmp_path / 'empty')]
    assert explain.main([*source, *missing]) == 1
    assert not (tmp_path / 'empty').exists()
    with pytest.raises(UserError, match='expected a folder, and it is a file'):
        explain.main([*source, str(file), '--output', str(file)])

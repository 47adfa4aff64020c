"""Protocols: their views, their names, and networks that slide over larger images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from cls import models
from cls.config import load as configs
from cls.data.spec import DataSpec
from cls.errors import UserError
from cls.evaluation import protocols
from cls.evaluation.protocols import EvalSpec
from cls.models.prelunet import spatial_pyramid
from cls.models.registry.init import init
from cls.nn.pool import over_windows
from cls.setup import set_up

RNG = np.random.default_rng(5)


def config(*overrides):
    return configs.load('configs/resnet.py', overrides)


def specs(config):
    return EvalSpec.from_config(config), DataSpec.from_config(config)


@pytest.mark.parametrize(
    ('name', 'views', 'shown'),
    [
        ('single', 1, [1]),
        ('flip', 2, [1]),
        ('ten_crop', 10, [5]),
        ('crops_12', 12, [6]),
        ('crops_144', 144, [72]),
        ('dense', 3, [1, 1, 1]),
        ('dense_flip', 6, [1, 1, 1]),
    ],
)
def test_protocols_have_as_many_views_as_their_papers(name, views, shown):
    c = config(
        ('data.image_size', '224'), ('data.eval_resize', '256'), ('eval.scales', '256,384,512')
    )
    protocol = protocols.find(name)
    made = protocol.views(*specs(c)) if protocol.views else ()
    assert [v.count for v in made] == (shown if made else [])
    assert views == (2 if protocol.mirrored else 1) * sum(shown)
    image = RNG.integers(256, size=(375, 500, 3), dtype=np.uint8)
    for v in made:
        assert v.make(image).shape == (v.count, *v.shape(375, 500), 3)


def test_scales_are_those_of_the_papers():
    c = config(('data.image_size', '224'), ('data.eval_resize', '256'))
    (made,) = protocols.find('crops_144').views(*specs(c))
    assert made.make.keywords['scales'] == (256, 288, 320, 352)
    (made,) = protocols.find('crops_12').views(*specs(c))
    assert made.make.keywords['scales'] == (256,)
    (made,) = protocols.find('dense').views(*specs(c))
    assert made.shape(500, 420) == (288, 256)  # 304 x 256, the excess cut to one 32
    c = config(('data.eval_size', '299'), ('eval.size_divisor', '1'))
    (made,) = protocols.find('crops_144').views(*specs(c))
    assert made.make.keywords['scales'] == (342, 384, 427, 470)
    assert made.make.keywords['size'] == 299


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('eval.protocol', 'tencrop', "'tencrop'.*Did you mean ten_crop"),
        ('eval.protocol', 'crops', 'crops_12, crops_144'),
        ('eval.scales', '256,0', 'scales'),
        ('eval.scales', '256.5', 'scales'),
        ('eval.scales', '256,256', 'once'),
        ('eval.size_divisor', '0', 'size_divisor'),
    ],
)
def test_what_makes_no_sense_is_one_line(field, value, message):
    with pytest.raises(UserError, match=message):
        set_up(config((field, value)), jax.devices()[:1])


def test_an_evaluation_is_no_other_training():
    fields = [('eval.protocol', 'dense'), ('eval.scales', '9'), ('eval.predictions', 'p.csv')]
    assert configs.identity(config()) == configs.identity(config(*fields))
    assert not configs.differences(configs.to_json(config()), configs.to_json(config(*fields)))


def test_over_windows_takes_them_row_by_row():
    images = RNG.standard_normal((2, 5, 4, 3)).astype(np.float32)
    found = over_windows(jnp.asarray(images), (3, 2), lambda x: x.reshape(2, -1))
    expected = [images[:, y : y + 3, x : x + 2].reshape(2, -1) for y in range(3) for x in range(3)]
    np.testing.assert_array_equal(found, np.stack(expected, 1))
    with pytest.raises(ValueError, match='windows'):
        over_windows(jnp.asarray(images), 5, lambda x: x.reshape(2, -1))


def applied(model, variables, images, **options):
    apply = jax.jit(lambda v, x: model.apply(v, x, **options), compiler_options=FAST)
    return jax.device_get(apply(variables, images))


def nets():
    vgg = models.create('vgg16', depths=(1, 1), widths=(4, 6), bins=2, hidden=16, num_classes=5)
    prelu = models.create(
        'prelunet_a',
        stage_sizes=(1, 1),
        widths=(4, 6),
        stem_width=4,
        pyramid=(2, 1),
        hidden=16,
        num_classes=5,
    )
    return {'vgg': (vgg, 8), 'prelunet': (prelu, 24)}


def parts(x, name, bins=(2, 1)):
    """The input of the linear layers for a window of the last map, in NumPy."""
    if name == 'vgg':
        return x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    return np.asarray(spatial_pyramid(jnp.asarray(x), bins))


@pytest.mark.parametrize('name', ['vgg', 'prelunet'])
def test_linear_layers_slide_over_larger_maps(name):
    """The map is that of the whole image; each window's logits are computed by NumPy."""
    model, side = nets()[name]
    variables = jax.tree.map(
        lambda x: np.asarray(x) + 0.1 * RNG.standard_normal(x.shape).astype(np.float32),
        init(model, 0, side),
    )
    c = config(('data.image_size', str(side)))
    dense = protocols.dense_form(model, DataSpec.from_config(c))
    images = RNG.standard_normal((2, side, side, 3)).astype(np.float32)
    plain = applied(model, variables, images)
    np.testing.assert_allclose(applied(dense, variables, images), plain, rtol=1e-5, atol=1e-5)

    images = RNG.standard_normal((2, side + 8, side + 16, 3)).astype(np.float32)
    _, sown = applied(model, variables, images, mutable=['intermediates'])
    (last,) = sown['intermediates']['stage2']
    window = {'vgg': 2, 'prelunet': 3}[name]  # the side of the last map of 8, of 24 pixels
    rows, columns = last.shape[1] - window + 1, last.shape[2] - window + 1
    assert rows > 1
    assert columns > rows
    layers = ('classifier.0', 'classifier.3', 'classifier.6') if name == 'vgg' else ('fc1', 'fc2')
    layers = layers if name == 'vgg' else (*layers, 'fc3')
    logits = []
    for y in range(rows):
        for x in range(columns):
            h = parts(last[:, y : y + window, x : x + window], name)
            for i, layer in enumerate(layers):
                p = variables['params'][layer]
                h = h @ p['kernel'] + p['bias']
                if i < 2 and name == 'vgg':
                    h = np.maximum(h, 0)
                elif i < 2:
                    h = np.where(h > 0, h, variables['params'][f'prelu_fc{i + 1}']['weight'] * h)
            logits.append(h)
    expected = np.mean(logits, 0)
    np.testing.assert_allclose(applied(dense, variables, images), expected, rtol=1e-4, atol=1e-4)


def test_the_map_of_a_prelunet_has_the_papers_side():
    assert models.create('prelunet_c').map_side(224) == 14
    assert models.create('prelunet_14').map_side(224) == 18


def test_nets_with_a_global_mean_are_dense_already():
    """Such a network returns the mean of the logits at all positions."""
    model = models.create(
        'resnet20_cifar', stage_sizes=(1, 1), widths=(4, 8), num_classes=5, dtype=jnp.float32
    )
    assert protocols.dense_form(model, DataSpec.from_config(config())) is model
    variables = init(model, 0, 8)
    images = RNG.standard_normal((2, 12, 20, 3)).astype(np.float32)
    logits, sown = applied(model, variables, images, mutable=['intermediates'])
    (last,) = sown['intermediates']['stage2']
    (linear,) = [
        p for p in variables['params'].values() if getattr(p.get('kernel'), 'ndim', 0) == 2
    ]
    by_position = np.asarray(last) @ linear['kernel'] + linear['bias']
    assert by_position.shape[1:3] == (6, 10)
    np.testing.assert_allclose(logits, by_position.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_only_the_error_of_a_config_names_its_field():
    """`find` is also for Model.stream, whose callers have no config."""
    with pytest.raises(
        UserError, match=r"^protocol is 'tencrop': expected .* Did you mean ten_crop"
    ):
        protocols.find('tencrop')
    with pytest.raises(UserError, match="^config.eval.protocol is 'tencrop': expected"):
        EvalSpec.from_config(config(('eval.protocol', 'tencrop')))


def test_squashed_images_are_for_the_center_crop_alone():
    squashed = DataSpec(image_size=224, eval_crop='squash')
    for name in ('single', 'flip'):
        EvalSpec(protocol=name).check_crop(squashed)
    with pytest.raises(UserError, match='eval_crop is squash, and config.eval.protocol ten_crop'):
        EvalSpec(protocol='ten_crop').check_crop(squashed)
    EvalSpec(protocol='ten_crop').check_crop(DataSpec(image_size=224))
